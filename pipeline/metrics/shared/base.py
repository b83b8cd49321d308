"""A metric is a plain function, (candidates, references) -> scores, whose scores equal those of the
original tool."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.languages.languages import ENGLISH
from pipeline.metrics.shared.ngrams import Counted, count

# image_id -> tokenised caption.
Candidates = dict[str, str]
# image_id -> tokenised references: a dict, or a mapping that reads them from a file
# (texts_on_disk).
References = Mapping[str, list[str]]
Array = NDArray[np.float64]


class Unavailable(Exception):
    """The metric cannot run here. The message gives the reason; the score is printed as n/a."""


@dataclass(frozen=True)
class Sums:
    """A corpus score as a function of sums over the images, so that any resample of them can be
    scored."""

    statistics: Array
    "(N, K) One row per image, in the order of the candidates."
    score: Callable[[Array], dict[str, Array]]
    "Sums (..., K) -> name -> scores (...)."


def means(per_image: Mapping[str, Sequence[float] | Array]) -> Sums:
    """Return the sums of metrics whose corpus score is the mean over the images that count.

    Args:
        per_image: name -> a score per image; NaN marks an image that does not count. The mean of no
            image is NaN.
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
    """Return the sums as `means` does, from name -> image_id -> score. An image without a score
    does not count."""
    return means(
        {
            name: [scores.get(image, math.nan) for image in candidates]
            for name, scores in per_image.items()
        }
    )


@dataclass(frozen=True)
class Scores:
    corpus: dict[str, float]
    """Name -> score of the whole set. A score that these captions do not have (a share of nothing)
    is left out, never NaN."""
    per_image: dict[str, dict[str, float]]
    "Name -> image_id -> score. An image that does not count is left out."
    sums: Sums | None = field(default=None, compare=False)
    "Sums for resampling. Without them, the scores have no interval."


def coco_style(candidates: Candidates, references: References) -> tuple[References, References]:
    """Return (references, candidates) in the form that pycocoevalcap needs.

    Both have equal keys in equal order, and each hypothesis is in a list.
    """
    return {i: references[i] for i in candidates}, {i: [text] for i, text in candidates.items()}


# Number of reference sets for which results are cached: validation and test images, for all
# variants of a corpus.
SETS = 2


class ReferenceSet(References):
    """References of some images, in the order of the candidates.

    Two sets of the same texts are equal, so a set can be the key of what is computed from it. The
    texts themselves are not held, but read again.

    Args:
        language: the language that they are said to be written in.
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
    """Return the references of the candidates' images as a ReferenceSet.

    A ReferenceSet of these images is returned unchanged, with its own language.
    """
    if isinstance(references, ReferenceSet) and references.images == list(candidates):
        return references
    return ReferenceSet(candidates, references, language)


@lru_cache(SETS)
def counted(references: ReferenceSet) -> Counted:
    return count(references.values())
