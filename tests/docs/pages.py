"""The pages of the documentation, with their code blocks and code spans."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.workspace import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """One fenced block of code."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0]}"


def blocks(page: Path, language: str = "") -> list[Block]:
    """Return the code blocks of a page in its order, optionally of one language only."""
    found = [Block(page, *match) for match in FENCE.findall(page.read_text())]
    return [block for block in found if language in ("", block.language)]


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, language)]


def spans(page: Path) -> Iterator[str]:
    """Yield the code spans (in backticks) of running text."""
    yield from SPAN.findall(FENCE.sub("", page.read_text()))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block as lists of words, without comments or a final `&`."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words[:-1] if words[-1] == "&" else words


def saved_files(page: Path) -> dict[str, str]:
    """Return path -> content of the files that a page tells the reader to save.

    The page says `Save it as` before the block of Python.
    """
    told = re.findall(
        r"Save it as `([\w/]+\.py)`.*?^```python\n(.*?)^```$",
        page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return dict(told)
