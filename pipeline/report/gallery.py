"""Test images for the page: a selection of all images, the best and worst of each variant, and
images on which two variants disagree."""

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
from pipeline.results.scores import read_image_scores

# Largest number of best images of a variant, and also of worst images.
EXTREMES = 3
# Largest number of best and worst images on one page. Every variant has at least one of each. This
# keeps a page of 20 variants under 3 MB.
SHOWN = 80
# Number of best variants of a corpus whose pairs are compared.
TOP = 3
# Number of images for each pair.
DISAGREEMENTS = 3
# Longest side of a thumbnail in pixels.
THUMBNAIL = 256


@dataclass(frozen=True)
class Picture:
    """A thumbnail. The page holds it once, wherever it is shown."""

    key: str
    "Id of the thumbnail in the page."
    image_id: str
    data: str
    "Data URI of a small JPEG."
    width: int
    height: int
    references: list[str]
    language: str
    "Language of the captions and references."


@dataclass(frozen=True)
class Said:
    """A system's caption of an image."""

    label: str
    text: str
    cider: str
    "CIDEr of this caption; n/a if it was not measured."


@dataclass(frozen=True)
class Shot:
    """An image with the captions that are shown beside it."""

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
    "Some test images, with the captions of every system."
    extremes: list[Extremes]
    pairs: list[tuple[str, str, list[Shot]]]
    "Two variants and the images on which their CIDEr differs most."


@dataclass
class Corpus:
    """The test images of a corpus and the captions of its systems."""

    name: str
    captions: pd.DataFrame
    "Table with image_id, raw and split."
    images: Shards
    "Pictures of the corpus's dataset."
    tables: dict[str, pd.DataFrame]
    "Label -> text and cider by image_id, for the systems that were run, best first."
    variants: list[str]
    "Labels of the systems that are not baselines."
    language: str = ENGLISH
    pictures: dict[str, Picture] = field(default_factory=dict)
    "Pictures by image_id. Each is added when it is first used."

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
        """Return CIDEr by image_id, in the order of the ids. Images without CIDEr are left out."""
        return self.tables[label]["cider"].dropna().sort_index()


def read_corpus(
    name: str,
    captions: pd.DataFrame,
    images: Shards,
    systems: list[tuple[Result, Path, Path]],
    language: str = ENGLISH,
) -> Corpus:
    """Read the captions and scores of a corpus's systems.

    Args:
        systems: each system with its files in data/captions and data/scores. A system with a
            missing file was not run and is left out.
    """
    found = [(result, files) for result, *files in systems if all(file.is_file() for file in files)]
    tables = {result.label: _texts_and_ciders(*files) for result, files in found}
    variants = [result.label for result, _ in found if result.decoding]
    return Corpus(name, captions, images, tables, variants, language)


def _texts_and_ciders(captions: Path, scores: Path) -> pd.DataFrame:
    """Return text and cider of the test split by image_id."""
    texts = read_table(captions, ["image_id", "split", "text"])
    figures = read_image_scores(scores)
    if "cider" not in figures:  # not among scoring.metrics
        figures["cider"] = float("nan")
    table = texts[texts["split"] == "test"].merge(
        figures[["image_id", "cider"]], on="image_id", how="left"
    )
    return table.set_index("image_id")


def thumbnail(source: bytes | Path) -> tuple[str, int, int]:
    """Return (data URI, width, height) of a thumbnail."""
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
    """Choose the images of one corpus.

    Args:
        extremes: number of best and of worst images of each variant; see `extremes_of`.
    """
    shots = [corpus.shot(image, corpus.tables) for image in spread(corpus.image_ids, SPREAD)]
    found = [
        _extremes(corpus, label, extremes) for label in corpus.variants if len(corpus.ciders(label))
    ]
    pairs = [
        (a, b, _disagreements(corpus, a, b)) for a, b in combinations(corpus.variants[:TOP], 2)
    ]
    return Gallery(corpus.name, shots, found, [pair for pair in pairs if pair[2]])


def extremes_of(variants: int) -> int:
    """Return how many best images, and how many worst, the page shows of each of so many
    variants."""
    return max(1, min(EXTREMES, SHOWN // max(1, 2 * variants)))


def _extremes(corpus: Corpus, label: str, count: int) -> Extremes:
    best, worst = best_and_worst(corpus.ciders(label), count)
    return Extremes(
        label,
        [corpus.shot(image, [label]) for image in best],
        [corpus.shot(image, [label]) for image in worst],
    )


def best_and_worst(ciders: pd.Series, count: int) -> tuple[list[str], list[str]]:
    """Return the ids of the best images, best first, and of the worst images, worst first. Equal
    scores are ordered by id. No image is in both lists."""
    order = list(ciders.sort_values(ascending=False, kind="stable").index)
    best = order[:count]
    rising = [image for image in ciders.sort_values(kind="stable").index if image not in best]
    return best, rising[:count]


def _disagreements(corpus: Corpus, a: str, b: str) -> list[Shot]:
    images = disagreements(corpus.ciders(a), corpus.ciders(b), DISAGREEMENTS)
    return [corpus.shot(image, [a, b]) for image in images]


def disagreements(one: pd.Series, other: pd.Series, count: int) -> list[str]:
    """Return the ids of the images with the largest differences. Equal differences are ordered by
    id. Images with equal scores are left out."""
    gaps = (one - other).abs().dropna().sort_index()
    gaps = gaps[gaps > 0].sort_values(ascending=False, kind="stable")
    return [str(image) for image in gaps.index[:count]]
