"""Write the reference pages: settings, commands, environment variables, folders, and the files
that params.yaml names."""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml


def table(head: list[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a markdown table. Cells may contain `|` and line breaks."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def sentence(text: str) -> str:
    """Return the text with a capital first letter and a full stop. A final `.`, `?`, `!` or `:` is
    kept."""
    text = " ".join(text.split())
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "?", "!", ":")) else f"{text}."


def code(value: object) -> str:
    return f"`{value}`" if str(value) else ""


def entries(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return a definition list of names, facts and meanings. Unlike a table, it fits a phone."""
    out = []
    for name, facts, meaning in rows:
        lines = [line for line in (f"*{facts}*" if facts else "", escaped(meaning)) if line]
        out.append(f"{name}\n:   " + "<br>\n    ".join(lines or ["-"]) + "\n")
    return "\n".join(out)


def escaped(text: str) -> str:
    """Escape each `<` outside code spans. Otherwise, text like `<end>` would be read as HTML."""
    return re.sub("`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], text)


# params.yaml


def parameters(root: Path) -> str:
    """Return every key of params.yaml, section by section, with its type and range."""
    from pipeline.experiment import params

    shown = yaml.safe_load((root / "params.yaml").read_text())
    told = attribute_texts(root / "pipeline/experiment/params.py")
    out = []
    for section, model in sections(params):
        example, (about, texts) = _example(shown, section), told[model.__name__]
        out += [f"\n## {section}\n", about, ""]
        rows = []
        for key, schema in model.model_json_schema()["properties"].items():
            facts = [_type(schema)]
            if "default" in schema:
                facts.append(f"may be left out ({code(_short(schema['default'])) or 'empty'})")
            if key in example and len(_short(example[key])) < 40:
                facts.append(f"here {code(_short(example[key]))}")
            rows.append((code(key), "; ".join(facts), sentence(_as_code(texts.get(key, "")))))
        out.append(entries(rows))
    return "\n".join(out)


def sections(params: Any) -> list[tuple[str, Any]]:
    return [
        ("datasets", params.Dataset),
        ("corpora", params.Corpus),
        ("features", params.FeatureSet),
        ("train", params.Training),
        ("decode", params.Decoding),
        ("scoring", params.Scoring),
        ("scoring: chair", params.Chair),
        ("variants", params.Variant),
        ("variants: paper", params.PaperRow),
    ]


def _example(shown: dict[str, Any], section: str) -> dict[str, Any]:
    """Return the section of the committed params.yaml; if it consists of rows, the first row."""
    part = shown.get(section, {})
    is_rows = section in ("datasets", "corpora", "features", "variants")
    return dict(next(iter(part.values()))) if is_rows else dict(part)


def _short(value: object) -> str:
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return (
        str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    )


def _type(schema: dict[str, Any]) -> str:
    """Describe a JSON schema in words, like `number, above 0`."""
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(code(value) for value in schema["enum"])
    names = {
        "integer": "whole number",
        "boolean": "true or false",
        "object": "keys and values",
        "string": "text",
        "null": "null",
        "array": "list",
    }
    kind = schema.get("type", "object")
    if "$ref" in schema:
        return "keys and values"
    if kind == "array":
        inner = _type(schema.get("items", {}))
        return f"list of: {inner}" + (", one or more" if schema.get("minItems") else "")
    return ", ".join([names.get(kind, kind), *_limits(schema)])


# Upper bounds from this value on only catch typing errors, so the pages leave them out.
FAR = 65_536


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum", FAR)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum", FAR)
    if low is not None:
        yield f"{low:g} to {high:g}" if high < FAR else f"{low:g} or more"
    if above is not None:
        yield f"above {above:g}"
    if low is None and high < FAR:
        yield f"at most {high:g}"
    if below < FAR:
        yield f"below {below:g}"
    if "multipleOf" in schema:
        yield f"a multiple of {schema['multipleOf']:g}"
    if "pattern" in schema:
        yield code(schema["pattern"].strip("^$"))


def attribute_texts(path: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Return, for each class, its docstring and a dict from each field to the string below it."""
    out = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            texts = {
                field.target.id: text.value.value
                for field, text in pairwise(node.body)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            }
            out[node.name] = (ast.get_docstring(node) or "", texts)
    return out


# Commands and variables


def commands(root: Path) -> str:
    """Return every command of `captionlab`, read from the objects that run it."""
    import typer

    from captionlab.__main__ import app

    group: Any = typer.main.get_command(app)
    out = []
    for name, command in sorted(group.commands.items()):
        usage = command.get_usage(typer.Context(command, info_name=f"captionlab {name}"))
        shown = " ".join(usage.removeprefix("Usage: ").split())
        out += [f"\n## captionlab {name}\n", f"```text\n{shown}\n```\n", command.help or "", ""]
        out.append(entries(_parameter(parameter) for parameter in command.params))
    return "\n".join(out)


def _parameter(parameter: Any) -> tuple[str, str, str]:
    is_option = parameter.opts[0].startswith("-")
    names = parameter.opts if is_option else [parameter.metavar or parameter.name]
    facts = [_kind(parameter.type_descriptor.annotation)]
    facts += [
        f"{word} {limit}"
        for word, limit in (("from", parameter.min), ("to", parameter.max))
        if limit is not None
    ]
    if parameter.required:
        facts.append("required")
    elif parameter.default not in (None, (), [], False):
        facts.append(f"by default {code(parameter.default)}")
    return ", ".join(map(code, names)), ", ".join(facts), parameter.help or ""


def _kind(annotation: Any) -> str:
    """Describe a Python type in words."""
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal:
        return " or ".join(map(code, parts))
    if get_origin(annotation) is list:
        return f"one or more of: {_kind(parts[0])}"
    if parts:
        return " or ".join(map(_kind, parts))
    return {bool: "flag", int: "whole number", float: "number", str: "text", Path: "path"}[
        annotation
    ]


def targets(root: Path) -> str:
    """Return what `make help` prints, as a table."""
    lines = re.findall(r'@echo "(make [\w-]+) +(.+)"', (root / "Makefile").read_text())
    return table(["command", "what it does"], [[code(c), sentence(text)] for c, text in lines])


def environment(root: Path) -> str:
    from pipeline.core.environment import VARIABLES

    return entries((code(v.name), f"by default: {v.default}", v.meaning) for v in VARIABLES)


# Places and stages


def folders(root: Path) -> str:
    """Return a table of the constants in pipeline/core/paths.py that have a string below them."""
    from pipeline.core import paths

    body = ast.parse((root / "pipeline/core/paths.py").read_text()).body
    rows = [
        [code(f"{getattr(paths, node.targets[0].id)}"), sentence(_as_code(text.value.value))]
        for node, text in pairwise(body)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    ]
    return table(["place", "what it holds"], rows)


def _as_code(text: str) -> str:
    """Set places like `<variant>` as code. Otherwise, they would be read as HTML."""
    return re.sub(r"(<\w+>[\w./<>]*)", r"`\1`", text)


def stages_list(root: Path) -> str:
    """Return every stage of dvc.yaml with the data that it reads, its parameters, and its
    outputs."""
    out = []
    for name, stage in yaml.safe_load((root / "dvc.yaml").read_text())["stages"].items():
        row, each = stage.get("do", stage), stage.get("foreach", "").strip("${}")
        data = [d for d in row["deps"] if not d.startswith(("pipeline/", "stages/", "captionlab/"))]
        written = [next(iter(o)) if isinstance(o, dict) else o for o in row["outs"]]
        written += row.get("metrics", [])
        lists = {"reads": data, "parameters": row.get("params", []), "writes": written}
        facts = [f"{word}: {_list(found)}" for word, found in lists.items() if found]
        head = f"**{name}**" + (f", one per row of `{each}`" if each else "")
        out.append(
            f"{head}\n:   {sentence(row['desc'])}\n\n" + "".join(f"    - {f}\n" for f in facts)
        )
    return "\n".join(out)


def _plain(template: str) -> str:
    return re.sub(r"\$\{(?:item\.)?(\w+)\}", lambda m: m[1].upper(), template)


def _list(names: Iterable[str]) -> str:
    return ", ".join(code(_plain(name)) for name in names)


def rooms_table(root: Path) -> str:
    """Return a table of the rooms and their modules, from the top floor down."""
    rows = []
    for floor in layers(root):
        for room in floor:
            folder = root / room
            if not folder.is_dir():
                folder = root / "pipeline" / room
            files = sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
            inner = sorted(p.parent.name + "/" for p in folder.glob("*/__init__.py"))
            rows.append([f"`{room}`", ", ".join(code(f) for f in [*inner, *files])])
    return table(["room", "modules"], rows)


def layers(root: Path) -> list[list[str]]:
    """Return the floors of import-linter's contracts. Rooms on one floor do not import each
    other."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    outer, inner = [c["layers"] for c in contracts["contracts"] if c["type"] == "layers"]
    floors = [floor for floor in outer if floor != "pipeline"] + inner
    return [[room.strip() for room in floor.split("|")] for floor in floors]


# What params.yaml names


def decoders(root: Path) -> str:
    return parts(root, "decoders", ["Decoder", "__init__"])


def encoders(root: Path) -> str:
    return parts(root, "encoders", ["Encoder", "__init__"])


def sources(root: Path) -> str:
    return parts(root, "sources", ["fetch"])


def metrics(root: Path) -> str:
    return parts(root, "metrics", [])


# Matches one or several names and a colon.
ENTRY = r"[a-z_0-9]+(?:, [a-z_0-9]+)*: "


def parts(root: Path, kind: str, entry: list[str]) -> str:
    """Return every file of a registry: the first paragraph of its docstring, and its arguments.
    Metrics and sources show the whole docstring."""
    out = []
    for path in sorted((root / "pipeline" / kind).glob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        whole = ast.get_docstring(tree) or ""
        text = whole if kind in ("metrics", "sources") else whole.split("\n\n")[0]
        out += [f"\n## {path.stem}\n", paragraphs(text), "", entries(_arguments(tree, entry))]
    return "\n".join(out)


def paragraphs(docstring: str) -> str:
    """Convert a docstring to markdown. Entries `name: meaning`, indented or not, become a list."""
    lines, in_list = [], False
    for block in re.split(rf"\n(?=\s*{ENTRY})|\n\n", docstring):
        text = escaped(" ".join(block.split()))
        entry = re.match(ENTRY, text)
        if entry:
            named = ", ".join(code(name) for name in entry[0][:-2].split(", "))
            text = f"- {named}: {text[entry.end() :]}"
        lines.append(text if entry and in_list else f"\n{text}")
        in_list = bool(entry)
    return "\n".join(lines)


def _arguments(tree: ast.Module, entry: list[str]) -> Iterator[tuple[str, str, str]]:
    node: Any = tree
    texts = ""
    for name in entry:
        node = next((n for n in node.body if getattr(n, "name", "") == name), None)
        if node is None:
            return
        texts += "\n" + (ast.get_docstring(node) or "")
    if not entry:
        return
    told = _told(texts)
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        facts = [_readable(ast.unparse(argument.annotation))] if argument.annotation else []
        facts.append(_default(default))
        yield code(argument.arg), ", ".join(facts), sentence(told.get(argument.arg, ""))


def _default(node: ast.expr | None) -> str:
    if node is None:
        return "required"
    try:
        value = _short(ast.literal_eval(node))
    except ValueError:  # The default is a name in the module.
        value = ast.unparse(node)
    return f"by default {code(value) or 'empty'}"


def _readable(annotation: str) -> str:
    """Describe an annotation in words. Types of pipeline/core/ranges.py get their bounds."""
    from pydantic import TypeAdapter

    from pipeline.core import ranges

    if hasattr(ranges, annotation):
        return _type(TypeAdapter(getattr(ranges, annotation)).json_schema())
    choice = re.fullmatch(r"Literal\[(.+)\]", annotation)
    if choice:
        return " or ".join(code(part.strip("'\"")) for part in choice[1].split(", "))
    words = {
        "int": "whole number",
        "float": "number",
        "str": "text",
        "bool": "true or false",
        "None": "null",
    }
    return " or ".join(words.get(part, code(part)) for part in annotation.split(" | "))


def _told(docstring: str) -> dict[str, str]:
    """Return the meaning of each argument: from `Args:`, or after `name`: in running text."""
    found = {}
    section = re.search(r"Args:\n((?:[ ]+.*\n?|\n(?=[ ]))+)", docstring)
    if section:
        for entry in re.split(r"\n(?=    \w+(?:, \w+)*:)", "\n" + section[1]):
            match = re.match(r"\n?\s+(\w+(?:, \w+)*): (.*)", entry, re.DOTALL)
            if match:
                found |= dict.fromkeys(match[1].split(", "), match[2])
    running = " ".join(docstring.split("Args:")[0].split())
    for match in re.finditer(r"`(\w+)`: (.*?)(?=; `\w+`:|\. `\w+`:|\.$|$)", running):
        found.setdefault(match[1], match[2])
    return found
