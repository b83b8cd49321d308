"""A metric is a plain function: (candidates, references) -> scores, equal to the original tool's."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Candidates = dict[str, str]
"image_id -> tokenised caption"
References = dict[str, list[str]]
"image_id -> tokenised references"
Array = NDArray[np.float64]


class Unavailable(Exception):
    """The metric cannot run here; the message says why and prints as n/a."""


@dataclass(frozen=True)
class Sums:
    """A corpus score as a function of sums over the images, so that any resample of them can be scored."""

    statistics: Array
    "(N, K), a row per image in the order of the candidates"
    score: Callable[[Array], dict[str, Array]]
    "sums (..., K) -> name -> scores (...)"


def means(per_image: Mapping[str, Sequence[float]]) -> Sums:
    """Of metrics whose corpus score is the mean over the images that count; NaN stands for an image that does not.

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
    return means({name: [scores.get(image, math.nan) for image in candidates] for name, scores in per_image.items()})


@dataclass(frozen=True)
class Scores:
    corpus: dict[str, float]
    "name -> score of the whole set; one that these captions do not have (a share of nothing) is left out, never NaN"
    per_image: dict[str, dict[str, float]]
    "name -> image_id -> score; an image that does not count is left out"
    sums: Sums | None = field(default=None, compare=False)
    "what resampling needs; without it, the scores have no interval"


def coco_style(candidates: Candidates, references: References) -> tuple[References, References]:
    """(references, candidates) as pycocoevalcap wants them: equal keys in equal order, one hypothesis in a list."""
    return {i: references[i] for i in candidates}, {i: [text] for i, text in candidates.items()}


ReferenceSet = tuple[tuple[str, ...], ...]
"references by image; what is made of one is remembered, because the variants of a corpus are scored one after the other"
SETS = 2
"reference sets that are remembered: validation and test images"
ORDERS = range(1, 5)
Ngram = tuple[str, ...]


def reference_set(candidates: Candidates, references: References) -> ReferenceSet:
    """In the order of the candidates."""
    return tuple(tuple(references[image]) for image in candidates)


def ngrams(words: Sequence[str]) -> Iterator[Ngram]:
    """Of all ORDERS."""
    for n in ORDERS:
        yield from zip(*(words[k:] for k in range(n)), strict=False)


@dataclass(frozen=True)
class CountedReferences:
    """Of one image."""

    counts: dict[Ngram, tuple[tuple[int, int], ...]]
    "n-gram -> (number of the reference, how often it has it), of those references that have it"
    lengths: list[int]
    "words by reference"


@lru_cache(SETS)
def counted(references: ReferenceSet) -> list[CountedReferences]:
    return [_counted(texts) for texts in references]


def _counted(texts: tuple[str, ...]) -> CountedReferences:
    words = [text.split() for text in texts]
    counts: dict[Ngram, tuple[tuple[int, int], ...]] = {}
    for n, each in enumerate(words):
        for ngram, count in Counter(ngrams(each)).items():
            counts[ngram] = (*counts.get(ngram, ()), (n, count))
    return CountedReferences(counts, [len(each) for each in words])
