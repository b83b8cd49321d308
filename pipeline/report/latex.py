r"""A sheet as LaTeX: one `tabular` per table, with the rules of booktabs, for use in a paper with
\input."""

from pathlib import Path

import pandas as pd

from pipeline.data.files import whole_folder
from pipeline.report.best import best_cells
from pipeline.report.formats import csv_text, markdown
from pipeline.report.table import Sheet, Table


def latex(sheet: Sheet) -> str:
    """Return a sheet as LaTeX. The document needs \\usepackage{booktabs}. The best figures of a
    column, and those within noise of the best, are bold."""
    parts = [f"% {sheet.title}: needs \\usepackage{{booktabs}}"]
    for table in map(Table.for_people, sheet.tables):
        parts += [
            f"% {table.title}: {table.about}",
            _tabular(table),
            *(f"% Warning: {line}." for line in table.warnings),
        ]
    parts += [f"% {line}" for line in [*sheet.legend, *sheet.notes, *sheet.quoting]]
    return "\n".join(parts) + "\n"


def _tabular(table: Table) -> str:
    grouped = any(column.protocol for column in table.columns)
    names = [(column.metric, column.kind) for column in table.columns]
    heads = [(key, "") for key in table.keys] + names
    frame = pd.DataFrame(_cells(table), dtype=str)
    frame.columns = pd.MultiIndex.from_tuples([(escaped(a), escaped(b)) for a, b in heads])
    if not grouped:
        frame.columns = frame.columns.droplevel(1)
    alignment = "l" * len(table.keys) + "r" * len(names)
    text: str = frame.style.hide(axis="index").to_latex(
        hrules=True, column_format=alignment, multicol_align="c"
    )
    return text.rstrip()


def _cells(table: Table) -> list[list[str]]:
    best = best_cells(table)
    out = []
    for r, (names, figures) in enumerate(table.texts()):
        cells = [escaped(figure).replace("±", r"$\pm$") for figure in figures]
        cells = [rf"\textbf{{{cell}}}" if (r, c) in best else cell for c, cell in enumerate(cells)]
        out.append([*map(escaped, names), *cells])
    return out


SPECIAL = str.maketrans({
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
})  # fmt: skip


def escaped(text: str) -> str:
    return text.translate(SPECIAL)


def write_tables(folder: Path, sheets: list[Sheet]) -> None:
    """Write <name>.md, .csv and .tex of every sheet. They replace the folder's content."""
    with whole_folder(folder) as part:
        for sheet in sheets:
            for suffix, text in (
                ("md", markdown(sheet)),
                ("csv", csv_text(sheet)),
                ("tex", latex(sheet)),
            ):
                (part / f"{sheet.name}.{suffix}").write_text(text, encoding="utf-8")
