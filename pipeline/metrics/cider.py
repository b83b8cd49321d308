"""CIDEr-D, document frequencies from the scored references (Vedantam et al., 2015), as
pycocoevalcap has it.

A resample keeps the document frequencies of the whole set.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pipeline.metrics.shared.base import (
    SETS,
    Array,
    Candidates,
    References,
    ReferenceSet,
    Scores,
    counted,
    means,
    reference_set,
)
from pipeline.metrics.shared.ngrams import ORDERS, Counted, Grams, Ints, Part, count, matches

SIGMA = 6.0
"of the penalty for another length, in pairs of words"


@dataclass(frozen=True, eq=False)
class Cider:
    """Scores any captions of some images by what is known of the references of all: words, document
    frequencies, norms."""

    references: Counted
    norms: Array
    "(T, 4): length of the vector of the n-grams' weights, by reference and order"

    def __call__(self, images: Ints, captions: Iterable[str]) -> Array:
        """(N,) of N captions, each of one image by its place; an image may have several, or none.

        Raises:
            ValueError: there are not as many captions as images.
        """
        texts = self.references.texts
        said, size = self.references.number(captions)
        if len(said.lengths) != len(images):
            raise ValueError(f"{len(said.lengths)} captions of {len(images)} images")
        scores = [np.zeros(0)]
        for rows, part in said.parts():
            norms = self.norms[texts.of(images[rows])]
            scores.append(_cider(part, texts.part(images[rows]), self.references, norms, size))
        return np.concatenate(scores)


def against(images: Iterable[Sequence[str]]) -> Cider:
    """Args: images: the tokenised references of each."""
    return _weighed(count(images))


def _weighed(references: Counted) -> Cider:
    norms = np.zeros((len(references.texts.lengths), len(ORDERS)))
    for images, part in references.texts.parts():
        rows = references.texts.of(images)
        whole = replace(
            part, text=part.image[part.text], image=np.arange(len(images))
        )  # an image's n-grams, as they come
        for found, match in matches(whole, part, references, len(references.vocabulary)):
            weights = match.counts * _inverse(found, references)[match.gram]
            norms[rows, found.order - 1] = np.sqrt(
                np.bincount(match.reference, weights * weights, len(rows))
            )
    return Cider(references, norms)


@lru_cache(SETS)
def _remembered(references: ReferenceSet) -> Cider:
    return _weighed(counted(references))


def score(candidates: Candidates, references: References) -> Scores:
    known = _remembered(reference_set(candidates, references))
    scores = known(np.arange(len(candidates)), candidates.values()).tolist()
    corpus = sum(scores) / max(1, len(scores))
    return Scores(
        {"cider": corpus},
        {"cider": dict(zip(candidates, scores, strict=True))},
        means({"cider": scores}),
    )


def _inverse(found: Grams, known: Counted) -> Array:
    """Logarithm of images / images whose references have the n-gram; of all images for what no
    reference says."""
    logarithms = _logarithms(len(known.texts.firsts) - 1)
    weights: Array = logarithms[-1] - logarithms[found.images]
    return weights


@lru_cache(SETS)
def _logarithms(most: int) -> Array:
    """Of 0 (as of 1) to `most`; Python's, from which numpy's may differ in the last bit."""
    return np.array([math.log(max(1, n)) for n in range(most + 1)])


def _cider(said: Part, references: Part, known: Counted, norms: Array, size: int) -> Array:
    """(N,): ten times the mean, over references and orders, of the clipped cosine times a penalty
    for another length."""
    cosines = np.zeros(len(norms))
    for found, match in matches(said, references, known, size):
        inverse = _inverse(found, known)
        weights = found.counts * inverse
        squares = np.bincount(found.text, weights * weights, len(said.image))
        theirs = match.counts * inverse[match.gram]
        products = np.bincount(
            match.reference, np.minimum(weights[match.gram], theirs) * theirs, len(norms)
        )
        lengths = np.sqrt(squares)[references.image] * norms[:, found.order - 1]
        cosines += np.divide(products, lengths, out=np.zeros(len(norms)), where=lengths > 0)
    # both in pairs of words
    pairs, their_pairs = (
        np.maximum(0, np.bincount(part.text, minlength=len(part.image)) - 1)
        for part in (said, references)
    )
    apart = np.abs(pairs[references.image] - their_pairs)
    penalties = np.array([math.exp(-(n**2) / (2 * SIGMA**2)) for n in range(apart.max() + 1)])[
        apart
    ]
    totals = np.bincount(references.image, cosines * penalties, len(said.image))
    return 10 * totals / len(ORDERS) / np.bincount(references.image, minlength=len(said.image))
