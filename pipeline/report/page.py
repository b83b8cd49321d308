"""The report: one self-contained page with tables, charts and pictures."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.data.corpus import SPREAD
from pipeline.data.files import whole_file
from pipeline.languages.languages import ENGLISH, find_language
from pipeline.report.attention import FULL, Views
from pipeline.report.best import best_cells
from pipeline.report.charts import Bars
from pipeline.report.cost_table import Costs
from pipeline.report.gallery import Gallery, Picture
from pipeline.report.learning_curves import Curves, panels, styles
from pipeline.report.table import Sheet, Table


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    sheets: list[Sheet]
    curves: Curves
    bars: list[Bars]
    costs: list[Costs]
    galleries: list[Gallery]
    views: list[Views]
    "Attention maps, for each corpus with a decoder that has attention."
    pictures: list[Picture]


@dataclass(frozen=True)
class Heading:
    """A cell in the head of a table."""

    text: str
    column: int | None
    "Number of the column below the cell. None if it spans several columns."
    classes: str = ""
    width: int = 1
    height: int = 1


def headings(table: Table) -> list[list[Heading]]:
    """Return the lines of a table's head: one line, or metrics above the protocols of their
    figures."""
    keys = len(table.keys)
    if not any(column.protocol for column in table.columns):
        names = [Heading(key, n, "name") for n, key in enumerate(table.keys)]
        return [
            names + [Heading(column.header, keys + n) for n, column in enumerate(table.columns)]
        ]
    top, below = [Heading(key, n, "name", height=2) for n, key in enumerate(table.keys)], []
    for metric, group in groupby(enumerate(table.columns, keys), key=lambda pair: pair[1].metric):
        columns = list(group)
        if not any(column.protocol for _, column in columns):
            top += [Heading(metric, n, "first", height=2) for n, _ in columns]
        else:
            top.append(Heading(metric, None, "span first", width=len(columns)))
            below += [
                Heading(c.kind, n, "kind first" if c is columns[0][1] else "kind")
                for n, c in columns
            ]
    return [top, below]


def tongue(language: str) -> dict[str, str]:
    """Return the HTML attributes of a text in this language on an English page. Browsers use them
    to choose glyphs and text direction."""
    if language == ENGLISH:
        return {}
    return {"lang": language, "dir": find_language(language).direction}


def write_page(path: Path, report: Report) -> None:
    """Write the whole report as one page that loads no scripts, styles or pictures from
    elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        best_cells=best_cells, headings=headings, spread=SPREAD, full=FULL, tongue=tongue
    )
    shown = {**vars(report), "panels": panels(report.curves), "styles": styles(report.curves)}
    page = environment.get_template("page.html").render(shown)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")
