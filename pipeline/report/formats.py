"""Sheets as markdown that is readable in a terminal, and as CSV for everything else."""

import csv
import io

from pipeline.report.best import best_cells, p_values
from pipeline.report.table import Sheet, Table
from pipeline.results.estimates import Estimate
from pipeline.results.values import OF_ROWS, SPLITS, TEACHER_FORCED, Value, number, spread


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
