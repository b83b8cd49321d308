"""Self-CIDEr (Wang and Chan, 2019, "Describing like humans: on diversity in image captioning"): how
different the captions are that a model gives one image.

K contains the CIDEr of every pair of an image's captions, with the document frequencies of the
references. Its eigenvalues l show how many distinct captions there effectively are. For m captions,
self_cider is -log_m(sqrt(l_max) / sum of sqrt(l)): 0 for equal captions, and 1 for captions without
an n-gram in common. The score is the mean over images; an image with fewer than two captions has
none.

The captions are those that a variant keeps (`decode.alternatives`): samples, or the hypotheses at
the end of a beam search.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from pipeline.metrics.shared.base import (
    SETS,
    Array,
    Candidates,
    References,
    ReferenceSet,
    Scores,
    Unavailable,
    means_of,
    reference_set,
)

# `score` also takes all captions of each image, which `variant.score_variant` passes.
NEEDS_SETS = True
ORDERS = 4
Gram = tuple[str, ...]


def score(
    candidates: Candidates,
    references: References,
    sets: Mapping[str, Sequence[str]] | None = None,
) -> Scores:
    """Return self_cider.

    Args:
        sets: image_id -> all its captions as tokens.

    Raises:
        Unavailable: no image has two captions.
    """
    several = {i: sets[i] for i in candidates if sets and len(sets.get(i, ())) > 1}
    if not several:
        raise Unavailable(
            "it compares several captions of an image: write decode: {samples: 5, alternatives: 5}"
        )
    frequencies = _frequencies(reference_set(candidates, references))
    found = {i: diversity(kernel(texts, *frequencies)) for i, texts in several.items()}
    per_image = {i: value for i, value in found.items() if not math.isnan(value)}
    if not per_image:
        return Scores({}, {})
    corpus = sum(per_image.values()) / len(per_image)
    known = {"self_cider": per_image}
    return Scores({"self_cider": corpus}, known, means_of(candidates, known))


def diversity(similarities: Array) -> float:
    """Return self_cider of one image.

    It is NaN if the captions have nothing in common even with themselves, because all images'
    references contain their words.

    Args:
        similarities: (M, M), symmetric.
    """
    roots = np.sqrt(np.linalg.eigvalsh(similarities).clip(0))
    if not roots.sum():
        return math.nan
    return float(-np.log(roots[-1] / roots.sum()) / np.log(len(roots)))


def kernel(texts: Sequence[str], frequencies: Mapping[Gram, int], images: int) -> Array:
    """Return (M, M) the cosine of the vectors of every two captions, averaged over orders."""
    vectors = [_vectors(text, frequencies, images) for text in texts]
    return np.array([[_cosine(one, other) for other in vectors] for one in vectors])


def _cosine(one: list[dict[Gram, float]], other: list[dict[Gram, float]]) -> float:
    found = 0.0
    for ours, theirs in zip(one, other, strict=True):
        product = sum(weight * theirs.get(gram, 0.0) for gram, weight in ours.items())
        lengths = [math.sqrt(sum(w * w for w in each.values())) for each in (ours, theirs)]
        found += product / math.prod(lengths) if all(lengths) else 0.0
    return found / ORDERS


def _vectors(text: str, frequencies: Mapping[Gram, int], images: int) -> list[dict[Gram, float]]:
    """Return, by order, n-gram -> its count x log(images / images whose references have it)."""
    words = text.split()
    return [
        {
            gram: n * (math.log(images) - math.log(max(1, frequencies.get(gram, 0))))
            for gram, n in Counter(_grams(words, order)).items()
        }
        for order in range(1, ORDERS + 1)
    ]


def _grams(words: Sequence[str], order: int) -> Iterable[Gram]:
    return zip(*(words[n:] for n in range(order)), strict=False)


@lru_cache(SETS)
def _frequencies(references: ReferenceSet) -> tuple[Counter[Gram], int]:
    """Return the number of images whose references have each n-gram, and the number of images."""
    frequencies = Counter[Gram]()
    for texts in references.values():
        words = [text.split() for text in texts]
        frequencies.update(
            {g for each in words for n in range(1, ORDERS + 1) for g in _grams(each, n)}
        )
    return frequencies, len(references)
