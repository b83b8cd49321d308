"""What a table is and how it is written: markdown that reads well in a terminal, CSV for everything else.

A column holds figures of one protocol, which its header or the line above the table names.
"""

import csv
import io
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from pipeline.files import whole_folder

CSV_ONLY = {"perplexity"}
"is exp(loss), so the tables that people read leave it out"
COUNTS = {"vocabulary", "gender_images"}
"printed without decimals"
LOWER_IS_BETTER = {
    *("loss", "perplexity", "gender_error", "gender_error_named", "collapse", "repetition", "bad_endings"),
}
NO_DIRECTION = {
    *("params_m", "distinct_1", "distinct_2", "distinct_captions", "vocabulary", "mean_length", "novel"),
    *("gender_images", "gender_neutral", "gender_nobody", "gender_ratio", "gender_ratio_refs"),
}
"neither high nor low is better: nothing is marked as best, nothing is chosen by it"
SPLITS = {"test": "test", "val": "validation"}
Value = float | str | None


@dataclass(frozen=True)
class Column:
    metric: str
    protocol: str = ""
    "'' where one protocol holds for the whole table"
    paper: bool = False

    @property
    def header(self) -> str:
        name = f"paper {self.metric}" if self.paper else self.metric
        return f"{name} ({self.protocol})" if self.protocol else name

    def text(self, value: Value) -> str:
        """Ours with four decimals; a paper's with fewer where it printed fewer."""
        if value is None or isinstance(value, str):
            return value or "n/a"
        if self.metric in COUNTS:
            return f"{value:.0f}"
        text = f"{value:.4f}"
        return text[:-4] + text[-4:].rstrip("0").ljust(3 if value < 1 else 2, "0") if self.paper else text


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

    def texts(self) -> list[tuple[list[str], list[str]]]:
        """The rows as printed: names, figures."""
        return [(names, [c.text(v) for c, v in zip(self.columns, values, strict=True)]) for names, values in self.rows]

    def spans(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one metric: (metric, how many)."""
        return [(metric, len(list(columns))) for metric, columns in groupby(c.metric for c in self.columns)]

    def for_people(self) -> "Table":
        keep = [i for i, c in enumerate(self.columns) if c.metric not in CSV_ONLY]
        rows = [(names, [values[i] for i in keep]) for names, values in self.rows]
        return replace(self, columns=[self.columns[i] for i in keep], rows=rows)


@dataclass(frozen=True)
class Sheet:
    """Tables that are read together: reports/tables/<name>.md and .csv."""

    name: str
    title: str
    tables: list[Table]
    legend: list[str]
    notes: list[str]


def markdown(sheet: Sheet) -> str:
    """Pipe tables that also read well in a terminal."""
    parts = [f"# {sheet.title}"]
    for table in sheet.tables:
        parts += [f"## {table.title}", table.about, _pipes(table.for_people())]
        parts += [f"Warning: {line}." for line in table.warnings]
    for title, lines in (("How to read", sheet.legend), ("Notes", sheet.notes)):
        if lines:
            parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _pipes(table: Table) -> str:
    lines = [[*table.keys, *(c.header for c in table.columns)], *(names + cells for names, cells in table.texts())]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    names = len(table.keys)
    rule = ["-" * w if i < names else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(_line(line, widths, names) for line in [lines[0], rule, *lines[1:]])


def _line(cells: list[str], widths: list[int], names: int) -> str:
    padded = [c.ljust(w) if i < names else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return f"| {' | '.join(padded)} |"


def csv_text(sheet: Sheet) -> str:
    """One line per system; the figures of test and validation in columns of their own, by the split's name."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for table in sheet.tables:
        for names, values in table.rows:
            named = {**table.group, **dict(zip(table.keys, names, strict=True))}
            line = lines.setdefault(tuple(named.values()), named)
            line |= {f"{table.split} {c.header}": _plain(v) for c, v in zip(table.columns, values, strict=True)}
    fields = dict.fromkeys(name for table in sheet.tables for name in [*table.group, *table.keys])
    for split in SPLITS:
        fields |= dict.fromkeys(f"{split} {c.header}" for table in sheet.tables if table.split == split for c in table.columns)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines.values())
    return out.getvalue()


def _plain(value: Value) -> str:
    return repr(round(value, 6)) if isinstance(value, float) else value or "n/a"


def write_tables(folder: Path, sheets: list[Sheet]) -> None:
    with whole_folder(folder) as part:
        for sheet in sheets:
            (part / f"{sheet.name}.md").write_text(markdown(sheet), encoding="utf-8")
            (part / f"{sheet.name}.csv").write_text(csv_text(sheet), encoding="utf-8")
