"""CIDEr-D with document frequencies from the scored references (Vedantam et al., 2015), as in
pycocoevalcap.

For each order of n-grams, a text has a vector: the count of an n-gram x log(images / images whose
references have it). A caption's score against one reference is the cosine of their vectors, with
the caption's weights clipped to the reference's. It is multiplied by exp(-d^2 / 72) for texts that
differ by d words. CIDEr-D is ten times the mean over references and orders.

Example: the two images of ngrams.py. Both have "a", so it weighs log(2 / 2) = 0. "dog" and "bird"
occur in one image or none, so they weigh log 2. In order 1, the caption "a red red dog" has the
vector (dog: log 2), and so have the references "a red dog" and "a dog". Both cosines are 1, but "a
dog" is two words shorter and is multiplied by exp(-4 / 72).

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
from pipeline.metrics.shared.ngrams import ORDERS, Counted, Grams, count, matches
from pipeline.metrics.shared.texts import Ints, Part

# Standard deviation in the length penalty, in pairs of words.
SIGMA = 6.0


@dataclass(frozen=True, eq=False)
class Cider:
    """Scores captions of some images by what is known of the references of all images.

    This is: their words, document frequencies and norms.
    """

    references: Counted
    norms: Array
    "(T, 4) Length of the vector of n-gram weights, by reference and order."
    plain: bool = False
    """Whether the score is CIDEr without the D: nothing is clipped, and another length costs
    nothing."""

    def __call__(self, images: Ints, captions: Iterable[str]) -> Array:
        """Return (N,) the scores of N captions.

        Args:
            images: place of each caption's image; an image may have several captions, or none.

        Raises:
            ValueError: the numbers of captions and of images differ.
        """
        texts = self.references.texts
        said, size = self.references.number(captions)
        if len(said.lengths) != len(images):
            raise ValueError(f"{len(said.lengths)} captions of {len(images)} images")
        scores = [np.zeros(0)]
        for rows, part in said.parts():
            norms = self.norms[texts.of(images[rows])]
            meant = texts.part(images[rows])
            cosines = _cosines(part, meant, self.references, norms, size, not self.plain)
            if not self.plain:
                cosines = cosines * _penalties(part, meant)
            scores.append(_mean(cosines, part, meant))
        return np.concatenate(scores)


def against(images: Iterable[Sequence[str]]) -> Cider:
    """Return a scorer for captions of these images.

    Args:
        images: the tokenised references of each image.
    """
    return _weighed(count(images))


def _weighed(references: Counted) -> Cider:
    norms = np.zeros((len(references.texts.lengths), len(ORDERS)))
    size = len(references.vocabulary)
    for images, part in references.texts.parts():
        rows = references.texts.of(images)
        for found, match in matches(_as_one_text(part, len(images)), part, references, size):
            weights = match.counts * _inverse(found, references)[match.gram]
            squares = np.bincount(match.reference, weights * weights, len(rows))
            norms[rows, found.order - 1] = np.sqrt(squares)
    return Cider(references, norms)


def _as_one_text(part: Part, images: int) -> Part:
    """Return the part with the references of each image as one caption.

    Each reference then has its share of that caption. N-grams do not cross from one reference to
    the next.
    """
    return replace(part, text=part.image[part.text], image=np.arange(images))


@lru_cache(SETS)
def _remembered(references: ReferenceSet) -> Cider:
    return _weighed(counted(references))


def score(candidates: Candidates, references: References) -> Scores:
    return scores_of("cider", candidates, references)


def scores_of(
    name: str, candidates: Candidates, references: References, plain: bool = False
) -> Scores:
    """Return the scores of CIDEr-D, or with `plain` those of CIDEr without the D."""
    known = replace(_remembered(reference_set(candidates, references)), plain=plain)
    scores = known(np.arange(len(candidates)), candidates.values()).tolist()
    corpus = sum(scores) / max(1, len(scores))
    return Scores(
        {name: corpus}, {name: dict(zip(candidates, scores, strict=True))}, means({name: scores})
    )


def _inverse(found: Grams, known: Counted) -> Array:
    """Return the logarithm of images / images whose references have the n-gram.

    For an n-gram that no reference has, it is the logarithm of all images.
    """
    logarithms = _logarithms(len(known.texts.firsts) - 1)
    weights: Array = logarithms[-1] - logarithms[found.images]
    return weights


@lru_cache(SETS)
def _logarithms(most: int) -> Array:
    """Return the logarithms of 0 (taken as 1) to `most`.

    They are Python's: numpy's may differ in the last bit.
    """
    return np.array([math.log(max(1, n)) for n in range(most + 1)])


def _mean(cosines: Array, said: Part, references: Part) -> Array:
    """Return (N,) ten times the mean over references and orders."""
    totals = np.bincount(references.image, cosines, len(said.image))
    return 10 * totals / len(ORDERS) / np.bincount(references.image, minlength=len(said.image))


def _cosines(
    said: Part, references: Part, known: Counted, norms: Array, size: int, clips: bool
) -> Array:
    """Return (T,) the cosine of each reference with its image's caption, summed over orders.

    With `clips`, the caption's weights are clipped to the reference's.
    """
    cosines = np.zeros(len(norms))
    for found, match in matches(said, references, known, size):
        inverse = _inverse(found, known)
        weights = found.counts * inverse
        squares = np.bincount(found.text, weights * weights, len(said.image))
        theirs = match.counts * inverse[match.gram]
        ours = weights[match.gram]
        if clips:
            ours = np.minimum(ours, theirs)
        products = np.bincount(match.reference, ours * theirs, len(norms))
        lengths = np.sqrt(squares)[references.image] * norms[:, found.order - 1]
        cosines += np.divide(products, lengths, out=np.zeros(len(norms)), where=lengths > 0)
    return cosines


def _penalties(said: Part, references: Part) -> Array:
    """Return (T,) the penalty for the difference in length between each reference and its image's
    caption."""
    pairs, their_pairs = (
        np.maximum(0, np.bincount(part.text, minlength=len(part.image)) - 1)
        for part in (said, references)
    )
    apart = np.abs(pairs[references.image] - their_pairs)
    by_difference = [math.exp(-(n**2) / (2 * SIGMA**2)) for n in range(apart.max() + 1)]
    penalties: Array = np.array(by_difference)[apart]
    return penalties
