"""The one table that `captionlab results` prints: the first of a page, in 100 columns."""

from itertools import takewhile
from typing import NamedTuple

from captionlab.terminal import WIDTH, cells_of

# The columns that stay longest: what most papers rank captions by.
FIRST = ("cider", "bleu_4", "meteor", "rouge_l", "spice")


class Headline(NamedTuple):
    """The first table of a page."""

    text: str
    "Its title, what it is about, the table, and any warnings, as Markdown."
    left_out: list[str]
    "Columns that do not fit."
    tables: int
    "Number of tables on the page."


def headline(page: str) -> Headline:
    """Return the first table of a page that `pipeline.report.formats.markdown` wrote.

    If the table is wider than `WIDTH`, it keeps its names and the columns of FIRST, then others as
    long as they fit. Columns that were not measured (n/a in every row) are left out first.
    """
    _, *sections = f"\n{page.strip()}".split("\n## ")
    tables = [section for section in sections if "\n|" in section]
    if not tables:
        return Headline(page.strip(), [], 0)
    lines = tables[0].rstrip().split("\n")
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    rows = [cells_of(line) for line in takewhile(lambda line: line.startswith("|"), lines[start:])]
    kept = _kept(rows)
    narrow = [_line(rows, row, kept) for row in range(len(rows))]
    text = "\n".join([f"## {lines[0]}", *lines[1:start], *narrow, *lines[start + len(rows) :]])
    left_out = [name for n, name in enumerate(rows[0]) if n not in kept]
    return Headline(text, left_out, len(tables))


def _kept(rows: list[list[str]]) -> list[int]:
    """Return the columns to show, in the order of the table."""
    head, rule, *body = rows
    numbers = [n for n, dashes in enumerate(rule) if dashes.endswith(":")]
    kept = [n for n in range(len(head)) if n not in numbers]
    left = WIDTH - 1 - sum(_width(rows, n) for n in kept)
    order = sorted(
        (n for n in numbers if any(row[n] != "n/a" for row in body)),
        key=lambda n: FIRST.index(head[n]) if head[n] in FIRST else len(FIRST) + n,
    )
    for place, n in enumerate(order):
        if place and _width(rows, n) > left:
            break
        left -= _width(rows, n)
        kept.append(n)
    return sorted(kept)


def _width(rows: list[list[str]], n: int) -> int:
    """Return the width of a column with the ` | ` before the next."""
    return max(len(row[n].replace("|", r"\|")) for row in rows) + 3


def _line(rows: list[list[str]], row: int, kept: list[int]) -> str:
    cells = []
    for n in kept:
        cell, width = rows[row][n].replace("|", r"\|"), _width(rows, n) - 3
        cells.append(cell.rjust(width) if rows[1][n].endswith(":") else cell.ljust(width))
    return f"| {' | '.join(cells)} |"
