"""Print Markdown on a terminal: tables are drawn, and split if they are wider than the terminal."""

import re
import sys
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline.core.errors import encodable, printable, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Maximum width in columns, even on a wider terminal.
WIDTH = 100
# Columns between two cells.
GAP = 2


def show(page: str) -> None:
    """Print a page: drawn on a terminal, otherwise unchanged."""
    if not sys.stdout.isatty():
        say(page)
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    console.width = min(console.width, WIDTH)
    draw(page, console)


def draw(page: str, console: "Console") -> None:
    lines = (printable(encodable(line, console.encoding), None) for line in page.split("\n"))
    for is_table, part in groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            _draw_table([cells_of(line) for line in part], console)
        else:
            for line in part:
                console.print(_bold(line.lstrip("# ") if line.startswith("#") else line))


def cells_of(line: str) -> list[str]:
    r"""Return the cells of a line such as `| a | b \| c |`."""
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _bold(cell: str) -> "Text":
    """Return a text with the part between `**` bold, as in `**0.5** ±.1`."""
    from rich.text import Text

    halves = cell.split("**")
    return Text.assemble(*((half, "bold" if n % 2 else "") for n, half in enumerate(halves)))


def _draw_table(rows: list[list[str]], console: "Console") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    head, rule, *body = rows
    widths = [
        max(_bold(cell).cell_len for cell in column) for column in zip(head, *body, strict=True)
    ]
    for part in parts(widths, console.width):
        table = Table(box=SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)
        for n in part:
            right = rule[n].endswith(":")
            table.add_column(_bold(head[n]), justify="right" if right else "left", overflow="fold")
        for row in body:
            table.add_row(*(_bold(row[n]) for n in part))
        console.print(table, "")


def parts(widths: list[int], width: int) -> Iterable[list[int]]:
    """Yield the columns of each part that fits the width; the first column is in every part.

    Example:
        >>> list(parts([10, 4, 4, 4], 24))
        [[0, 1, 2], [0, 3]]
    """
    part, used = [0], widths[0] + GAP
    for n in range(1, len(widths)):
        if len(part) > 1 and used + widths[n] > width:
            yield part
            part, used = [0], widths[0] + GAP
        part.append(n)
        used += widths[n] + GAP
    yield part
