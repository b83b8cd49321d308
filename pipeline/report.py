"""The report: a gallery of test images and one page that shows it with tables and curves, with nothing to fetch."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.corpus import SPREAD, spread
from pipeline.figures import Curves, panels, styles
from pipeline.files import whole_file
from pipeline.images import read_image
from pipeline.results import Result
from pipeline.sheets import Sheet, best_cells

CARDS = 40
"at most, with the best and the worst of every variant; keeps the page under 3 MB"
THUMBNAIL = 256
"pixels of the longer side"


@dataclass(frozen=True)
class Card:
    """One image of the gallery."""

    image_id: str
    picture: str
    "data URI of a small JPEG"
    marks: list[str]
    "why it was chosen, e.g. 'best of lstm'"
    references: list[str]
    captions: list[tuple[str, str, str]]
    "label, text, CIDEr of this image"


@dataclass(frozen=True)
class Gallery:
    corpus: str
    cards: list[Card]


def choose(ciders: dict[str, pd.Series], image_ids: list[str]) -> dict[str, list[str]]:
    """image_id -> marks: `SPREAD` images evenly through the sorted ids, then the worst and best image of each system.

    Args:
        ciders: system -> CIDEr by image_id; equal scores: the first id.
    """
    chosen: dict[str, list[str]] = {image: [] for image in spread(image_ids, SPREAD)}
    for name, scores in ciders.items():
        known = scores.dropna().sort_index()
        if known.empty:
            continue
        for mark, image in (("worst", str(known.idxmin())), ("best", str(known.idxmax()))):
            if image in chosen or len(chosen) < CARDS:
                chosen.setdefault(image, []).append(f"{mark} of {name}")
    return chosen


def gallery(corpus: str, captions: pd.DataFrame, images: Path, systems: list[tuple[Result, Path, Path]]) -> Gallery:
    """Test images with their references and the caption of every system.

    Args:
        captions: the corpus's captions.parquet.
        images: the folder that its column `file` is relative to.
        systems: each with its files in data/captions and data/scores; one whose files are missing was not run.
    """
    test = captions[captions["split"] == "test"]
    tables = {result.label: _texts_and_ciders(*files) for result, *files in systems if all(f.is_file() for f in files)}
    ciders = {
        result.label: tables[result.label]["cider"] for result, *_ in systems if result.decoding and result.label in tables
    }
    cards = []
    for image_id, marks in sorted(choose(ciders, list(test["image_id"].unique())).items()):
        rows = test[test["image_id"] == image_id]
        said = [(result.label, *_said(tables.get(result.label), image_id)) for result, *_ in systems]
        cards.append(Card(image_id, _thumbnail(images / rows["file"].iloc[0]), marks, list(rows["raw"]), said))
    return Gallery(corpus, cards)


def _texts_and_ciders(captions: Path, scores: Path) -> pd.DataFrame:
    """text and cider by image_id, of the test split."""
    texts = pd.read_parquet(captions, columns=["image_id", "split", "text"])
    figures = pd.read_parquet(scores)
    if "cider" not in figures:  # not among scoring.metrics
        figures["cider"] = float("nan")
    table = texts[texts["split"] == "test"].merge(figures[["image_id", "cider"]], on="image_id", how="left")
    return table.set_index("image_id")


def _said(table: pd.DataFrame | None, image_id: str) -> tuple[str, str]:
    if table is None or image_id not in table.index:
        return "not run", "n/a"
    row = table.loc[image_id]
    return str(row["text"]), "n/a" if pd.isna(row["cider"]) else f"{row['cider']:.2f}"


def _thumbnail(path: Path) -> str:
    image = read_image(path)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def write_page(path: Path, sheets: list[Sheet], curves: Curves, galleries: list[Gallery]) -> None:
    """The whole report as one page without scripts, styles or pictures from elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.get_template("report.html", globals={"best_cells": best_cells, "spread": SPREAD})
    page = template.render(sheets=sheets, galleries=galleries, panels=panels(curves), styles=styles(curves))
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")
