"""A metric is a plain function: (candidates, references) -> scores, equal to the original
tool's."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.languages.languages import ENGLISH
from pipeline.metrics.shared.ngrams import Counted, count

Candidates = dict[str, str]
"image_id -> tokenised caption"
References = Mapping[str, list[str]]
"image_id -> tokenised references; a dict, or what reads them from a file (texts_on_disk)"
Array = NDArray[np.float64]


class Unavailable(Exception):
    """The metric cannot run here; the message says why and prints as n/a."""


@dataclass(frozen=True)
class Sums:
    """A corpus score as a function of sums over the images, so that any resample of them can be
    scored."""

    statistics: Array
    "(N, K), a row per image in the order of the candidates"
    score: Callable[[Array], dict[str, Array]]
    "sums (..., K) -> name -> scores (...)"


def means(per_image: Mapping[str, Sequence[float] | Array]) -> Sums:
    """Of metrics whose corpus score is the mean over the images that count; NaN stands for an image
    that does not.

    The mean of no image is NaN.
    """
    columns = np.array(list(per_image.values()), dtype=float)  # (scores, images)
    counted = ~np.isnan(columns)
    statistics = np.concatenate([np.where(counted, columns, 0.0), counted]).T

    def score(sums: Array) -> dict[str, Array]:
        totals, counts = np.split(sums, 2, axis=-1)
        with np.errstate(invalid="ignore"):  # 0 / 0
            ratios = totals / counts
        return {name: ratios[..., k] for k, name in enumerate(per_image)}

    return Sums(statistics, score)


def means_of(candidates: Candidates, per_image: Mapping[str, Mapping[str, float]]) -> Sums:
    """The same, of name -> image_id -> score: an image without a score does not count."""
    return means(
        {
            name: [scores.get(image, math.nan) for image in candidates]
            for name, scores in per_image.items()
        }
    )


@dataclass(frozen=True)
class Scores:
    corpus: dict[str, float]
    """name -> score of the whole set; one that these captions do not have (a share of nothing) is
    left out, never NaN"""
    per_image: dict[str, dict[str, float]]
    "name -> image_id -> score; an image that does not count is left out"
    sums: Sums | None = field(default=None, compare=False)
    "what resampling needs; without it, the scores have no interval"


def coco_style(candidates: Candidates, references: References) -> tuple[References, References]:
    """(references, candidates) as pycocoevalcap wants them: equal keys in equal order, one
    hypothesis in a list."""
    return {i: references[i] for i in candidates}, {i: [text] for i, text in candidates.items()}


SETS = 2
"""reference sets of which is remembered what is made of them: validation and test images, by all
variants of a corpus"""


class ReferenceSet(References):
    """References of some images, in the order of the candidates: equal to any other of the same
    texts.

    So it is a key of what is made of them; the texts themselves are not held, but asked for again.

    Args:
        language: what they are said to be written in.
    """

    def __init__(
        self, images: Iterable[str], references: References, language: str = ENGLISH
    ) -> None:
        self.images, self._references, self.language = list(images), references, language
        content = hashlib.sha256()
        for texts in self.values():
            content.update(repr(texts).encode("utf-8", "surrogatepass"))
        self._content = content.digest()

    def __getitem__(self, image: str) -> list[str]:
        return self._references[image]

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceSet) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


def reference_set(
    candidates: Candidates, references: References, language: str = ENGLISH
) -> ReferenceSet:
    """Of the candidates' images; what is one already is taken as it is, with its language."""
    if isinstance(references, ReferenceSet) and references.images == list(candidates):
        return references
    return ReferenceSet(candidates, references, language)


@lru_cache(SETS)
def counted(references: ReferenceSet) -> Counted:
    return count(references.values())
