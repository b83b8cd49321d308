"""What a table is and how it is written: markdown that reads well in a terminal, CSV for everything
else.

A column holds figures of one protocol, which its header or the line above the table names.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.results.estimates import ALPHA, Estimate, p_value
from pipeline.results.values import (
    COUNTS,
    CSV_ONLY,
    LOWER_IS_BETTER,
    NO_DIRECTION,
    OF_ROWS,
    SPLITS,
    TEACHER_FORCED,
    Mean,
    Value,
    number,
    spread,
)


@dataclass(frozen=True)
class Column:
    metric: str
    protocol: str = ""
    "'' where one protocol holds for the whole table"
    paper: bool = False
    difference: bool = False
    "of two protocols, or of ours and a paper's under one protocol"

    @property
    def is_judged(self) -> bool:
        """Whether one end is better, so that the best of the column means something."""
        return self.metric not in NO_DIRECTION and not self.difference

    @property
    def kind(self) -> str:
        """What stands under the metric, where several columns share it; '' where one protocol holds
        for the whole table."""
        if self.difference or not self.protocol:
            return self.protocol
        return f"{'paper' if self.paper else 'ours'}, {self.protocol}"

    @property
    def header(self) -> str:
        return self.named("")

    def named(self, suffix: str) -> str:
        """The header of a figure that belongs to this one, e.g. `bleu_4_low`."""
        name = f"paper {self.metric}{suffix}" if self.paper else f"{self.metric}{suffix}"
        return f"{name} ({self.protocol})" if self.protocol else name

    def text(self, value: Value) -> str:
        """Ours with four decimals, or what its interval leaves of them; a paper's with fewer where
        it printed fewer."""
        if value is None or isinstance(value, str):
            return value or "n/a"
        if isinstance(value, Mean):
            return self._with_spread(value)
        if isinstance(value, Estimate):
            text = _with_interval(value)
            return text if value.value < 0 or not self.difference else f"+{text}"
        if self.difference:
            return f"{value:+.4f}"
        if self.metric in COUNTS:
            return f"{value:.0f}"
        text = f"{value:.4f}"
        return (
            text[:-4] + text[-4:].rstrip("0").ljust(3 if value < 1 else 2, "0")
            if self.paper
            else text
        )

    def _with_spread(self, mean: Mean) -> str:
        """`0.8030 s.0040`; of counts `364.5 s6.4`."""
        if self.metric in COUNTS:
            return f"{mean.value:{'+' if self.difference else ''}.1f} s{mean.sd:.1f}"
        return f"{self.text(mean.value)} {_sd(mean.sd, 4)}"


def _with_interval(estimate: Estimate) -> str:
    """`0.803 ±.017`: half the interval's width, with two digits that count; `0.803 ±.017 s.004` of
    several trainings."""
    low, high = estimate.interval
    half = (high - low) / 2
    digits = 3 if half >= 0.00995 else 4
    spread = "" if estimate.sd is None else f" {_sd(estimate.sd, digits)}"
    return f"{estimate.value:.{digits}f} ±{_short(half, digits)}{spread}"


def _sd(sd: float, digits: int) -> str:
    """`s.0040`."""
    return f"s{_short(sd, digits)}"


def _short(value: float, digits: int) -> str:
    """`.0040`, without the zero before the point."""
    return f"{value:.{digits}f}".removeprefix("0")


@dataclass(frozen=True)
class Table:
    """The figures of one split."""

    title: str
    about: str
    split: str
    group: dict[str, str]
    "what all rows have in common; columns of the CSV only"
    keys: list[str]
    columns: list[Column]
    rows: list[tuple[list[str], list[Value]]]
    warnings: list[str] = field(default_factory=list)
    "lines right under the table"
    hidden: frozenset[str] = frozenset(CSV_ONLY)
    "metrics that only the CSV has"
    unjudged: frozenset[int] = frozenset()
    """rows that are never marked as best: a baseline that says one thing of everything never
    repeats a word"""
    tokens: str = ""
    """the tokenizer that its scores are by, where that is not PTB: the CSV has a column for each,
    so that scores of two tokenizers never share one"""

    def texts(self) -> list[tuple[list[str], list[str]]]:
        """The rows as printed: names, figures."""
        return [
            (names, [c.text(v) for c, v in zip(self.columns, values, strict=True)])
            for names, values in self.rows
        ]

    def for_people(self) -> "Table":
        """Without what only the CSV has; a fact that all rows share stands above the table."""
        shared = {
            c.metric: self._shared(i) for i, c in enumerate(self.columns) if c.metric in OF_ROWS
        }
        said = "".join(f" {name.capitalize()}: {text}." for name, text in shared.items() if text)
        keep = [
            i
            for i, c in enumerate(self.columns)
            if c.metric not in self.hidden and shared.get(c.metric) is None
        ]
        rows = [(names, [values[i] for i in keep]) for names, values in self.rows]
        return replace(
            self, about=self.about + said, columns=[self.columns[i] for i in keep], rows=rows
        )

    def _shared(self, column: int) -> str | None:
        """What all rows say that say something, '' where none does; None: they differ."""
        said = {str(values[column]) for _, values in self.rows} - {"n/a", "not run", "-", "None"}
        return "".join(said) if len(said) < 2 else None


def best_cells(table: Table) -> set[tuple[int, int]]:
    """(row, column) of the best figure of every column that has two or more, and of those within
    noise of it."""
    best = set()
    for c, column in enumerate(table.columns):
        cells = [values[c] for _, values in table.rows]
        judged = [None if r in table.unjudged else value for r, value in enumerate(cells)]
        figures = {
            r: figure for r, value in enumerate(judged) if (figure := number(value)) is not None
        }
        if len(figures) > 1 and column.is_judged and (not _tested(table) or _tested_column(cells)):
            top = _top(column, figures.values())
            best |= {(r, c) for r, figure in figures.items() if figure == top}
            best |= {
                (r, c)
                for r, p in enumerate(p_values(column, judged))
                if p is not None and p >= ALPHA
            }
    return best


def _tested(table: Table) -> bool:
    """Whether the table has intervals: what has none there is then marked nowhere, for nothing
    tells noise from it."""
    return any(
        _tested_column([values[c] for _, values in table.rows]) for c in range(len(table.columns))
    )


def _tested_column(cells: list[Value]) -> bool:
    return any(isinstance(cell, Estimate) for cell in cells)


def _top(column: Column, figures: Iterable[float]) -> float:
    return min(figures) if column.metric in LOWER_IS_BETTER else max(figures)


def p_values(
    column: Column, cells: list[Value], unjudged: frozenset[int] = frozenset()
) -> list[float | None]:
    """Each row of a column against the best of those that are judged; None where the two cannot be
    paired."""
    estimates = [
        cell for r, cell in enumerate(cells) if isinstance(cell, Estimate) and r not in unjudged
    ]
    if not estimates:
        return [None] * len(cells)
    top = _top(column, (e.value for e in estimates))
    best = next(e for e in estimates if e.value == top)
    return [p_value(best, cell) if isinstance(cell, Estimate) else None for cell in cells]


@dataclass(frozen=True)
class Sheet:
    """Tables that are read together: reports/tables/<name>.md, .csv and .tex."""

    name: str
    title: str
    tables: list[Table]
    legend: list[str]
    notes: list[str]
    quoting: list[str] = field(default_factory=list)
    "what LaTeX needs to quote captions of these corpora"
    records: list[dict[str, Value]] = field(default_factory=list)
    "lines of the CSV, where it is not the tables' own columns"


def markdown(sheet: Sheet) -> str:
    """Pipe tables that also read well in a terminal."""
    parts = [f"# {sheet.title}"]
    for table in map(Table.for_people, sheet.tables):
        parts += [f"## {table.title}", table.about, _pipes(table)]
        parts += [f"Warning: {line}." for line in table.warnings]
    for title, lines in (("How to read", sheet.legend), ("Notes", sheet.notes)):
        if lines:
            parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _pipes(table: Table) -> str:
    lines = [
        [*table.keys, *(c.header for c in table.columns)],
        *(names + cells for names, cells in _emphasised(table)),
    ]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    names = len(table.keys)
    rule = ["-" * w if i < names else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(_line(line, widths, names) for line in [lines[0], rule, *lines[1:]])


def _emphasised(table: Table) -> list[tuple[list[str], list[str]]]:
    """The best of what has intervals in bold: `**0.803** ±.017`."""
    rows = table.texts()
    for r, c in best_cells(table):
        if isinstance(table.rows[r][1][c], Estimate):
            figure, spread = rows[r][1][c].split(" ", 1)
            rows[r][1][c] = f"**{figure}** {spread}"
    return rows


def _line(cells: list[str], widths: list[int], names: int) -> str:
    padded = [
        c.ljust(w) if i < names else c.rjust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def csv_text(sheet: Sheet) -> str:
    """One line per system; the figures of test and validation in columns of their own, by the
    split's name.

    Those with intervals have `_low` and `_high` beside them, and `_p`: of the paired test against
    the best of the table; means over several trainings have `_sd`.
    """
    if sheet.records:
        return _csv(
            [{name: _plain(value) for name, value in record.items()} for record in sheet.records]
        )
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    figures: dict[str, dict[str, None]] = {split: {} for split in SPLITS}
    for table in sheet.tables:
        columns = [
            _csv_columns(table, c)
            for c in range(len(table.columns))
            if table.columns[c].metric not in OF_ROWS
        ]
        facts = {
            column.metric: c for c, column in enumerate(table.columns) if column.metric in OF_ROWS
        }
        figures[table.split] |= dict.fromkeys(name for column in columns for name in column)
        for r, (names, values) in enumerate(table.rows):
            named = {**table.group, **dict(zip(table.keys, names, strict=True))}
            line = lines.setdefault(tuple(named.values()), named)
            line |= {name: _plain(values[c]) for name, c in facts.items()}
            line |= {name: _plain(cells[r]) for column in columns for name, cells in column.items()}
    fields = dict.fromkeys(name for table in sheet.tables for name in [*table.group, *table.keys])
    there = [name for name in OF_ROWS if any(name in line for line in lines.values())]
    return _csv(
        list(lines.values()),
        [*fields, *there, *(name for of_split in figures.values() for name in of_split)],
    )


def _csv(lines: list[dict[str, str]], fields: list[str] | None = None) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fields or list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _csv_columns(table: Table, c: int) -> dict[str, list[Value]]:
    """A column of the table as the columns of the CSV: the figure, and what its interval adds."""
    column, cells = table.columns[c], [values[c] for _, values in table.rows]
    out: dict[str, list[Value]] = {"": cells}
    if any(isinstance(cell, Estimate) for cell in cells):
        intervals = [
            cell.interval if isinstance(cell, Estimate) else (None, None) for cell in cells
        ]
        out |= {"_low": [low for low, _ in intervals], "_high": [high for _, high in intervals]}
        if (
            column.is_judged and column.protocol != "standard"
        ):  # which the first table has, with the rows of all
            out["_p"] = list(p_values(column, cells, table.unjudged))
    if any(spread(cell) is not None for cell in cells):
        out["_sd"] = [spread(cell) for cell in cells]
    of = f" ({table.tokens})" if table.tokens and column.metric not in TEACHER_FORCED else ""
    return {f"{table.split} {column.named(suffix)}{of}": values for suffix, values in out.items()}


def _plain(value: Value) -> str:
    figure = number(value)
    return repr(round(figure, 6)) if figure is not None else str(value or "n/a")
