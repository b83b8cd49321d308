"""Attention maps for the page: where a decoder looked for each word. Each word has digits that the
browser draws as heat."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from pipeline.data.checked import read_table
from pipeline.report.gallery import Corpus, Picture

# Approximate largest number of characters for weights, per corpus on the page. With many variants,
# fewer images are shown.
DIGITS = 600_000
# Peak of a word, as a multiple of an even map's weight, from which the peak gets the full colour.
FULL = 3.0
# Multiple of an even map's weight. A variant whose median peak is below it looks nowhere in
# particular.
EVEN = 2.0


@dataclass(frozen=True)
class Word:
    text: str
    heat: str
    "Two digits per position, row by row: hundredths of the full colour. See `heat`."
    peak: str
    "Largest weight of the word, as a multiple of an even map's weight."


@dataclass(frozen=True)
class Look:
    """One variant's caption of an image."""

    label: str
    rows: int
    columns: int
    crops: bool
    "Whether the encoder saw only the centre square of the picture."
    pads: bool
    "Whether the encoder saw the whole picture in the middle of a filled square."
    words: list[Word]


@dataclass(frozen=True)
class View:
    """An image, with the attention of each variant that has attention."""

    picture: Picture
    looks: list[Look]


@dataclass(frozen=True)
class Views:
    corpus: str
    views: list[View]
    even: list[tuple[str, str]]
    "(Variant, median peak) of each variant whose median is below `EVEN`: its maps are nearly even."


def peak(weights: np.ndarray) -> float:
    """Return the largest of P weights as a multiple of an even map's weight."""
    return float(weights.max() * len(weights))


def heat(weights: np.ndarray) -> str:
    """Return two digits per position: 00 up to the weight of an even map, and 99 at the peak if the
    peak is at least `FULL` times that weight.

    A nearly even map therefore stays pale, and its noise is not exaggerated.

    Args:
        weights: (P,), with sum 1.
    """
    shares = ((weights * len(weights) - 1) / (max(peak(weights), FULL) - 1)).clip(0, 1)
    return "".join(f"{round(99 * share):02d}" for share in shares.tolist())


def read_attention(files: dict[str, Path]) -> dict[str, pd.DataFrame]:
    """Return label -> attention table (paths.attention) of the variants that have attention."""
    tables = {label: read_table(file) for label, file in files.items() if file.is_file()}
    return {label: table for label, table in tables.items() if len(table)}


def attention_views(corpus: Corpus, tables: dict[str, pd.DataFrame], digits: int = DIGITS) -> Views:
    """Return the attention on the stored images: as many as `digits` allow, but at least one.

    Args:
        tables: label -> image_id, position, word, weights (P,), rows, columns, crops, pads.
    """
    views: list[View] = []
    used = 0
    for image_id in sorted({image for table in tables.values() for image in table["image_id"]}):
        of_image = {label: table[table["image_id"] == image_id] for label, table in tables.items()}
        looks = [_look(label, rows) for label, rows in of_image.items() if len(rows)]
        used += sum(len(word.heat) for look in looks for word in look.words)
        if views and used > digits:
            break
        views.append(View(corpus.picture(image_id), looks))
    peaks = {label: median(map(peak, table["weights"])) for label, table in tables.items()}
    return Views(
        corpus.name,
        views,
        [(label, f"{typical:.1f}") for label, typical in peaks.items() if typical < EVEN],
    )


def _look(label: str, table: pd.DataFrame) -> Look:
    rows = table.sort_values("position").to_dict("records")
    words = [Word(row["word"], heat(row["weights"]), f"{peak(row['weights']):.1f}") for row in rows]
    shape = {name: rows[0][name] for name in ("rows", "columns", "crops", "pads")}
    return Look(label=label, words=words, **shape)
