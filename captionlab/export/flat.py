"""Flatten modules of this project to Python files beside each other, as in exported folders."""

import ast
import re
from pathlib import Path

import pipeline

ROOT = Path(pipeline.__file__).parent
# The module that holds the model's class.
MAIN = "modeling_captionlab"


def closure(text: str) -> list[str]:
    """Return the modules of this project that a source imports, directly or indirectly."""
    seen: dict[str, None] = {}
    queue = _imported(text)
    while queue:
        module = queue.pop()
        if module not in seen:
            seen[module] = None
            queue += _imported(file_of(module).read_text("utf-8"))
    return sorted(seen)


def _imported(text: str) -> list[str]:
    found = [
        n
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("pipeline")
    ]
    names = [[n.module or "", *(f"{n.module}.{a.name}" for a in n.names)] for n in found]
    return [name for both in names for name in both if file_of(name).is_file()]


def packages(sources: list[str]) -> set[str]:
    """Return the packages that the sources import at their head, without Python's own modules.

    Pillow has its usual name.
    """
    import sys

    nodes = [node for text in sources for node in ast.parse(text).body]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    top = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"pipeline"}
    return {"pillow" if name == "PIL" else name for name in top} | {"tokenizers", "safetensors"}


def file_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")


def flat_name(module: str) -> str:
    return module.replace("pipeline.", "captionlab_").replace(".", "_")


def flat_absolute(text: str) -> str:
    """Return a source whose imports of this project name flat files, for use as a script.

    For example, `from pipeline.images.reading import read_image` becomes `from
    captionlab_images_reading import read_image`. Importing whole modules is not supported.
    """
    return re.sub(
        r"^( *from )(pipeline[\w.]*)(?= import )",
        lambda found: found[1] + flat_name(found[2]),
        text,
        flags=re.MULTILINE,
    )


def flat(text: str) -> str:
    """Return a source with relative imports of flat files, for transformers to load as a package.

    For example, `from pipeline.decoders import base` becomes `from . import
    captionlab_decoders_base as base`.
    """

    def relative(found: re.Match[str]) -> str:
        indent, module, names = found.groups()
        if file_of(module).is_file():
            return f"{indent}from .{flat_name(module)} import {names}"
        lines = []
        for name in names.split(","):
            what, _, alias = name.strip().partition(" as ")
            beside = flat_name(f"{module}.{what}")
            lines.append(
                f"{indent}from .{beside} import __name__ as _  # transformers copies what is "
                "imported in this way"
            )
            lines.append(f"{indent}from . import {beside} as {alias or what}")
        return "\n".join(lines)

    text = re.sub(r"(?<=import )\(([^)]*)\)", lambda found: _one_line(found[1]), text)
    return re.sub(r"^( *)from (pipeline[\w.]*) import (.+)$", relative, text, flags=re.MULTILINE)


def _one_line(names: str) -> str:
    """Return the names of an import in brackets, which may take several lines, as one line."""
    return ", ".join(name.strip() for name in names.split(",") if name.strip())
