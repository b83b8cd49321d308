"""Tables and their output formats: markdown that is readable in a terminal, and CSV for everything
else.

A column holds figures of one protocol, which is named in its header or in the line above the table.
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
    SEEN,
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
    "Protocol of the column. '' if one protocol applies to the whole table."
    paper: bool = False
    "Whether the figures are a paper's."
    difference: bool = False
    "Whether it is a difference: of two protocols, or ours minus a paper's under one protocol."

    @property
    def is_judged(self) -> bool:
        """Whether high or low is better, so that the column has a best figure."""
        return self.metric not in NO_DIRECTION and not self.difference

    @property
    def kind(self) -> str:
        """Second line of the header, below a metric that several columns share. '' if one protocol
        applies to the whole table."""
        if self.difference or not self.protocol:
            return self.protocol
        return f"{'paper' if self.paper else 'ours'}, {self.protocol}"

    @property
    def header(self) -> str:
        return self.named("")

    def named(self, suffix: str) -> str:
        """Return the header of a column that belongs to this one, such as `bleu_4_low`."""
        name = f"paper {self.metric}{suffix}" if self.paper else f"{self.metric}{suffix}"
        return f"{name} ({self.protocol})" if self.protocol else name

    def text(self, value: Value) -> str:
        """Return a figure as text. Ours has four decimals, or fewer if its interval is wide. A
        paper's has fewer if the paper printed fewer."""
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
        """Return text such as `0.8030 s.0040`, or `364.5 s6.4` for counts."""
        if self.metric in COUNTS:
            return f"{mean.value:{'+' if self.difference else ''}.1f} s{mean.sd:.1f}"
        return f"{self.text(mean.value)} {_sd(mean.sd, 4)}"


def _with_interval(estimate: Estimate) -> str:
    """Return text such as `0.803 ±.017`, or `0.803 ±.017 s.004` for several trainings. `±` gives
    half the interval's width, usually with two significant digits."""
    low, high = estimate.interval
    half = (high - low) / 2
    digits = 3 if half >= 0.00995 else 4
    spread = "" if estimate.sd is None else f" {_sd(estimate.sd, digits)}"
    return f"{estimate.value:.{digits}f} ±{_short(half, digits)}{spread}"


def _sd(sd: float, digits: int) -> str:
    """Return text such as `s.0040`."""
    return f"s{_short(sd, digits)}"


def _short(value: float, digits: int) -> str:
    """Return text such as `.0040`, without the zero before the point."""
    return f"{value:.{digits}f}".removeprefix("0")


@dataclass(frozen=True)
class Table:
    """The figures of one split."""

    title: str
    about: str
    split: str
    group: dict[str, str]
    "Values that all rows share. They are columns of the CSV only."
    keys: list[str]
    columns: list[Column]
    rows: list[tuple[list[str], list[Value]]]
    warnings: list[str] = field(default_factory=list)
    "Lines directly below the table."
    hidden: frozenset[str] = frozenset(CSV_ONLY)
    "Metrics that only the CSV has."
    unjudged: frozenset[int] = frozenset()
    """Rows that are never marked as best, such as a baseline: its one caption for all images may
    score well by never repeating a word."""
    tokens: str = ""
    """Tokenizer of the scores. '' means PTB. The CSV has separate columns for each tokenizer, so
    that scores of two tokenizers never share one."""

    def texts(self) -> list[tuple[list[str], list[str]]]:
        """Return the rows as printed: names and figures."""
        return [
            (names, [c.text(v) for c, v in zip(self.columns, values, strict=True)])
            for names, values in self.rows
        ]

    def for_people(self) -> "Table":
        """Return the table without what only the CSV has. A fact that all rows share moves to the
        line above the table."""
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
        """Return the value that all rows with a value share.

        Returns:
            '' if no row has a value, and None if the values differ.
        """
        nothing = {"", "n/a", "not run", "None"}
        if self.columns[column].metric != SEEN:  # there, '-' is a row that nothing is known of
            nothing.add("-")
        said = {str(values[column]) for _, values in self.rows} - nothing
        return "".join(said) if len(said) < 2 else None


def best_cells(table: Table) -> set[tuple[int, int]]:
    """Return (row, column) of the best figure of each column, and of the figures within noise of
    it. Columns with fewer than two figures are left out."""
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
    """Return whether the table has intervals. If it has, columns without intervals are not marked,
    because their differences cannot be separated from noise."""
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
    """Return the p-value of each row of a column against the best judged row. It is None if the two
    cannot be paired."""
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
    """Tables that belong together: reports/tables/<name>.md, .csv and .tex."""

    name: str
    title: str
    tables: list[Table]
    legend: list[str]
    notes: list[str]
    quoting: list[str] = field(default_factory=list)
    "What LaTeX needs to quote captions of these corpora."
    records: list[dict[str, Value]] = field(default_factory=list)
    "Lines of the CSV, if they do not come from the columns of the tables."


def markdown(sheet: Sheet) -> str:
    """Return a sheet as markdown with pipe tables that are also readable in a terminal."""
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
    """Return the rows as printed, with the best figures that have intervals in bold:
    `**0.803** ±.017`."""
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
    """Return a sheet as CSV with one line per system. The figures of test and validation are in
    separate columns, which begin with the split's name.

    Figures with intervals also have `_low`, `_high` and `_p`, the p-value of the paired test
    against the best of the table. Means over several trainings also have `_sd`.
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
    """Return a column of the table as columns of the CSV: the figure, and the columns that its
    interval adds."""
    column, cells = table.columns[c], [values[c] for _, values in table.rows]
    out: dict[str, list[Value]] = {"": cells}
    if any(isinstance(cell, Estimate) for cell in cells):
        intervals = [
            cell.interval if isinstance(cell, Estimate) else (None, None) for cell in cells
        ]
        out |= {"_low": [low for low, _ in intervals], "_high": [high for _, high in intervals]}
        if (
            column.is_judged and column.protocol != "standard"
        ):  # the first table already has the p-values of this protocol, with the rows of all
            out["_p"] = list(p_values(column, cells, table.unjudged))
    if any(spread(cell) is not None for cell in cells):
        out["_sd"] = [spread(cell) for cell in cells]
    of = f" ({table.tokens})" if table.tokens and column.metric not in TEACHER_FORCED else ""
    return {f"{table.split} {column.named(suffix)}{of}": values for suffix, values in out.items()}


def _plain(value: Value) -> str:
    figure = number(value)
    return repr(round(figure, 6)) if figure is not None else str(value or "n/a")
