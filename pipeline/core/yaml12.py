"""Read YAML 1.2 as DVC does, at the speed of libyaml.

PyYAML reads YAML 1.1, in which `yes` is true, 010 is 8, 12:30 is 750 and 1e-3 is a string. If a key
occurs twice, it silently takes the second. ruamel.yaml reads 1.2, but its import alone takes 70 ms.
Reading params.yaml this way takes 16 ms, import included.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from pipeline.core.errors import UserError

# Kind -> pattern of its values, and the characters that a value may begin with.
SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
    "timestamp": (r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "0123456789"),
}


class Yaml12(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C one, where libyaml is there
    """Loader for `yaml.load(text, Yaml12)`.

    Raises:
        yaml.MarkedYAMLError: the text is not YAML, or a key occurs twice in one mapping.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # of this class, not of its parents

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
                if name in seen:
                    raise ConstructorError(
                        None, None, f"the key '{key.value}' occurs twice", key.start_mark
                    )
                seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _int(loader: Any, node: Any) -> int:
    digits = loader.construct_scalar(node).replace("_", "")
    return int(digits, 10 if digits.lstrip("+-").isdigit() else 0)


for kind, (pattern, first) in SCALARS.items():
    Yaml12.add_implicit_resolver(
        f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), list(first)
    )
Yaml12.add_constructor("tag:yaml.org,2002:int", _int)


def read_yaml(path: Path, hint: str = "") -> Any:
    """Read a YAML file. All YAML files are read with this function.

    Args:
        hint: what may have happened to a file that is not YAML.

    Raises:
        UserError: it is not YAML, or it is a folder.
        FileNotFoundError: it does not exist.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Yaml12)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name a file of YAML") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = f" ({hint})" if hint else ""
        raise UserError(f"{path} is not valid YAML{why}: {in_one_line(error)}") from None


def in_one_line(error: Exception) -> str:
    """Return a YAML error as one line: `line 12: the key 'lr' occurs twice`."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or error
    return f"line {mark.line + 1}: {problem}" if mark else str(error)
