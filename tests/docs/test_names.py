"""Modules, folders and functions that comments, docstrings and pages name exist."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from tests.workspace import ROOT

ROOFS = ("benchmarks", "captionlab", "docs/hooks", "pipeline", "stages", "tests")
CODE = [p for roof in ("captionlab", "pipeline", "stages") for p in (ROOT / roof).rglob("*.py")]
# Without the decisions, which describe the files of their day.
PAGES = [
    *ROOT.glob("*.md"),
    *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "decisions"),
]
# Pages that tell the reader to write a file, and the changelog, which names files that are gone.
INVENTED = re.compile(r"docs/howto/add-|CHANGELOG")
WRITTEN_ELSEWHERE = {"modeling_captionlab.py"}
MODULE = re.compile(r"(?<![\w./~-])[\w/-]+\.py\b")
PLACE = re.compile(r"(?<![\w./{~-])(?:stages|pipeline|captionlab|docs|tests|data|reports)/[\w-]+")
MEMBER = re.compile(r"(?<![\w./'-])([a-z_]+)\.([a-z]+_[a-z_]+)\b")


@cache
def prose(path: Path) -> str:
    """Return the text of a page, or the comments and docstrings of a module."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return text
    return "\n".join([*re.findall(r"#.*", text), *docstrings(text)])


def docstrings(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def outputs() -> set[str]:
    """Return the folders of outputs in dvc.yaml, in the form data/x or reports/x."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    rows = [row.get("do", row) for row in graph.values()]
    outs = [out for row in rows for out in [*row["outs"], *row.get("metrics", [])]]
    paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
    return {"/".join(path.split("/")[:2]) for path in paths}


def test_every_module_and_folder_that_the_text_names_is_there() -> None:
    modules = [p for roof in ROOFS for p in (ROOT / roof).rglob("*.py")]
    parts = [p.relative_to(ROOT).parts for p in modules]
    known = {"/".join(part[n:]) for part in parts for n in range(len(part))} | WRITTEN_ELSEWHERE
    made = outputs()
    for path in [*CODE, *PAGES]:
        name = path.relative_to(ROOT).as_posix()
        if INVENTED.search(name):
            continue
        text = prose(path)
        assert {m for m in MODULE.findall(text) if m not in known} == set(), name
        missing = {p for p in PLACE.findall(text) if p not in made and not there(p)}
        assert missing == set(), name


def there(place: str) -> bool:
    """Return whether there is a folder or file of this name, or a file with a suffix added."""
    path = ROOT / place
    return path.exists() or any(path.parent.glob(f"{path.name}.*"))


def test_a_function_that_is_named_with_its_module_is_in_that_module() -> None:
    words: dict[str, set[str]] = {}
    for path in CODE:
        words.setdefault(path.stem, set()).update(re.findall(r"\w+", path.read_text("utf-8")))
    for path in CODE:
        named = {(module, what) for module, what in MEMBER.findall(prose(path)) if module in words}
        stale = {f"{module}.{what}" for module, what in named if what not in words[module]}
        assert stale == set(), path.relative_to(ROOT).as_posix()
