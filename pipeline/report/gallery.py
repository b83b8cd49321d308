"""Test images for the page: some of everything, the best and the worst of each variant, and where
two variants disagree."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from math import isnan
from pathlib import Path

import pandas as pd

from pipeline.data.checked import read_table
from pipeline.data.corpus import SPREAD, spread
from pipeline.data.shards import Shards
from pipeline.images.reading import read_image
from pipeline.languages.languages import ENGLISH
from pipeline.results.result import Result
from pipeline.results.scores import own_standard

EXTREMES = 3
"best images of a variant, and as many of the worst"
SHOWN = 80
"""extremes on one page, at most, but one of each kind for every variant: keeps the page of 20
variants under 3 MB"""
TOP = 3
"variants of a corpus, the best ones, whose pairs are compared"
DISAGREEMENTS = 3
"images of a pair"
THUMBNAIL = 256
"pixels of the longer side"


@dataclass(frozen=True)
class Picture:
    """A thumbnail that the page holds once, wherever it is shown."""

    key: str
    "its id in the page"
    image_id: str
    data: str
    "data URI of a small JPEG"
    width: int
    height: int
    references: list[str]
    language: str
    "of what is said of it"


@dataclass(frozen=True)
class Said:
    """What a system said of an image."""

    label: str
    text: str
    cider: str
    "of this image; n/a where it was not measured"


@dataclass(frozen=True)
class Shot:
    """An image with the captions that are read beside it."""

    picture: Picture
    said: list[Said]


@dataclass(frozen=True)
class Extremes:
    label: str
    best: list[Shot]
    worst: list[Shot]


@dataclass(frozen=True)
class Gallery:
    """What the page shows of one corpus."""

    corpus: str
    shots: list[Shot]
    "some test images, with the captions of every system"
    extremes: list[Extremes]
    pairs: list[tuple[str, str, list[Shot]]]
    "two variants and the images on which their CIDEr differs most"


@dataclass
class Corpus:
    """The test images of a corpus and what its systems said of them."""

    name: str
    captions: pd.DataFrame
    "image_id, raw, split"
    images: Shards
    "its data set's pictures"
    tables: dict[str, pd.DataFrame]
    "label -> text and cider by image_id; of systems that were run, the best first"
    variants: list[str]
    "labels of those that are no baseline"
    language: str = ENGLISH
    pictures: dict[str, Picture] = field(default_factory=dict)
    "by image_id, as they are asked for"

    @property
    def image_ids(self) -> list[str]:
        return sorted(self.captions.loc[self.captions["split"] == "test", "image_id"].unique())

    def picture(self, image_id: str) -> Picture:
        if image_id not in self.pictures:
            rows = self.captions[self.captions["image_id"] == image_id]
            key = f"picture-{self.name}-{len(self.pictures)}"
            small = thumbnail(self.images.read(image_id))
            self.pictures[image_id] = Picture(
                key, image_id, *small, list(rows["raw"]), self.language
            )
        return self.pictures[image_id]

    def shot(self, image_id: str, labels: Iterable[str]) -> Shot:
        return Shot(self.picture(image_id), [self._said(label, image_id) for label in labels])

    def _said(self, label: str, image_id: str) -> Said:
        table = self.tables[label]
        if image_id not in table.index:
            return Said(label, "no caption", "n/a")
        text, cider = str(table["text"][image_id]), float(table["cider"][image_id])
        return Said(label, text, "n/a" if isnan(cider) else f"{cider:.2f}")

    def ciders(self, label: str) -> pd.Series:
        """By image_id, those that have one, in the order of the ids."""
        return self.tables[label]["cider"].dropna().sort_index()


def read_corpus(
    name: str,
    captions: pd.DataFrame,
    images: Shards,
    systems: list[tuple[Result, Path, Path]],
    language: str = ENGLISH,
) -> Corpus:
    """Args: systems: each with its files in data/captions and data/scores; one whose files are
    missing was not run."""
    found = [(result, files) for result, *files in systems if all(file.is_file() for file in files)]
    tables = {result.label: _texts_and_ciders(*files) for result, files in found}
    variants = [result.label for result, _ in found if result.decoding]
    return Corpus(name, captions, images, tables, variants, language)


def _texts_and_ciders(captions: Path, scores: Path) -> pd.DataFrame:
    """text and cider by image_id, of the test split."""
    texts = read_table(captions, ["image_id", "split", "text"])
    figures = own_standard(read_table(scores))
    if "cider" not in figures:  # not among scoring.metrics
        figures["cider"] = float("nan")
    table = texts[texts["split"] == "test"].merge(
        figures[["image_id", "cider"]], on="image_id", how="left"
    )
    return table.set_index("image_id")


def thumbnail(source: bytes | Path) -> tuple[str, int, int]:
    """(data URI, width, height)"""
    image = read_image(source)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=75, optimize=True)
    return (
        f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}",
        image.width,
        image.height,
    )


def gallery(corpus: Corpus, extremes: int = EXTREMES) -> Gallery:
    """Args: extremes: best and worst images of each variant; see `extremes_of`."""
    shots = [corpus.shot(image, corpus.tables) for image in spread(corpus.image_ids, SPREAD)]
    found = [
        _extremes(corpus, label, extremes) for label in corpus.variants if len(corpus.ciders(label))
    ]
    pairs = [
        (a, b, _disagreements(corpus, a, b)) for a, b in combinations(corpus.variants[:TOP], 2)
    ]
    return Gallery(corpus.name, shots, found, [pair for pair in pairs if pair[2]])


def extremes_of(variants: int) -> int:
    """How many best and how many worst images each of so many variants has on the page."""
    return max(1, min(EXTREMES, SHOWN // max(1, 2 * variants)))


def _extremes(corpus: Corpus, label: str, count: int) -> Extremes:
    best, worst = best_and_worst(corpus.ciders(label), count)
    return Extremes(
        label,
        [corpus.shot(image, [label]) for image in best],
        [corpus.shot(image, [label]) for image in worst],
    )


def best_and_worst(ciders: pd.Series, count: int) -> tuple[list[str], list[str]]:
    """Image ids, the best of the best and the worst of the worst first; of equal scores the first
    id; no image is both."""
    order = list(ciders.sort_values(ascending=False, kind="stable").index)
    best = order[:count]
    rising = [image for image in ciders.sort_values(kind="stable").index if image not in best]
    return best, rising[:count]


def _disagreements(corpus: Corpus, a: str, b: str) -> list[Shot]:
    images = disagreements(corpus.ciders(a), corpus.ciders(b), DISAGREEMENTS)
    return [corpus.shot(image, [a, b]) for image in images]


def disagreements(one: pd.Series, other: pd.Series, count: int) -> list[str]:
    """The image ids with the largest differences; of equal ones the first id. Where both score
    alike nothing disagrees."""
    gaps = (one - other).abs().dropna().sort_index()
    gaps = gaps[gaps > 0].sort_values(ascending=False, kind="stable")
    return [str(image) for image in gaps.index[:count]]
