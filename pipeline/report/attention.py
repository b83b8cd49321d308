"""Where decoders looked, word by word, as a page holds it: digits beside each word, which the
browser draws as heat."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from pipeline.data.checked import read_table
from pipeline.report.gallery import Corpus, Picture

DIGITS = 600_000
"characters of weights in one page, about: fewer images are shown of many variants"
FULL = 3.0
"times the weight of an even map, from which a word's own peak has the full colour"
EVEN = 2.0
"""times the weight of an even map: a variant whose peaks are mostly below looks nowhere in
particular"""


@dataclass(frozen=True)
class Word:
    text: str
    heat: str
    "two digits per position, row by row: hundredths of the colour, see `heat`"
    peak: str
    "its largest weight, in weights of an even map"


@dataclass(frozen=True)
class Look:
    """One variant's caption of an image."""

    label: str
    rows: int
    columns: int
    crops: bool
    "it saw the centre square of the picture alone"
    words: list[Word]


@dataclass(frozen=True)
class View:
    """An image, with where each variant that attends looked."""

    picture: Picture
    looks: list[Look]


@dataclass(frozen=True)
class Views:
    corpus: str
    views: list[View]
    even: list[tuple[str, str]]
    "(variant, the median of its peaks) where that is below `EVEN`: its maps are nearly even"


def peak(weights: np.ndarray) -> float:
    """The largest of P weights, in weights of an even map."""
    return float(weights.max() * len(weights))


def heat(weights: np.ndarray) -> str:
    """Two digits per position: nothing up to the weight of an even map, 99 at the peak, if that is
    `FULL` times as much.

    A nearly even map so stays pale instead of having its noise drawn large.

    Args:
        weights: (P,), of sum 1.
    """
    shares = ((weights * len(weights) - 1) / (max(peak(weights), FULL) - 1)).clip(0, 1)
    return "".join(f"{round(99 * share):02d}" for share in shares.tolist())


def read_attention(files: dict[str, Path]) -> dict[str, pd.DataFrame]:
    """label -> its table of attention (paths.attention), of the variants that attend."""
    tables = {label: read_table(file) for label, file in files.items() if file.is_file()}
    return {label: table for label, table in tables.items() if len(table)}


def attention_views(corpus: Corpus, tables: dict[str, pd.DataFrame], digits: int = DIGITS) -> Views:
    """As many of the images that were kept as `digits` allow, one at least.

    Args:
        tables: label -> image_id, position, word, weights (P,), rows, columns, crops.
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
    return Look(label, rows[0]["rows"], rows[0]["columns"], rows[0]["crops"], words)
