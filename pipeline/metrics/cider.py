"""CIDEr-D, document frequencies from the scored references (Vedantam et al., 2015), as pycocoevalcap has it.

A resample keeps the document frequencies of the whole set.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from pipeline.metrics.base import (
    ORDERS,
    SETS,
    Candidates,
    CountedReferences,
    Ngram,
    References,
    ReferenceSet,
    Scores,
    counted,
    means,
    ngrams,
    reference_set,
)

SIGMA = 6.0
"of the penalty for another length, in pairs of words"


@dataclass(frozen=True)
class Weights:
    documents: float
    "logarithm of the number of images: the inverse document frequency of what no reference says"
    inverse: dict[Ngram, float]
    "n-gram -> logarithm of images / images whose references have it"
    norms: list[list[list[float]]]
    "by image, reference and order: length of the vector of the n-grams' weights"


def score(candidates: Candidates, references: References) -> Scores:
    known = reference_set(candidates, references)
    weights = _weights(known)
    pairs = zip(candidates.values(), counted(known), weights.norms, strict=True)
    scores = [_cider(text.split(), refs, norms, weights) for text, refs, norms in pairs]
    corpus = sum(scores) / max(1, len(scores))
    return Scores({"cider": corpus}, {"cider": dict(zip(candidates, scores, strict=True))}, means({"cider": scores}))


@lru_cache(SETS)
def _weights(references: ReferenceSet) -> Weights:
    known = counted(references)
    frequencies = Counter(ngram for image in known for ngram in image.counts)
    documents = math.log(max(1, len(known)))
    inverse = {ngram: documents - math.log(count) for ngram, count in frequencies.items()}
    return Weights(documents, inverse, [_norms(image, inverse) for image in known])


def _norms(image: CountedReferences, inverse: dict[Ngram, float]) -> list[list[float]]:
    squares = [[0.0] * len(ORDERS) for _ in image.lengths]
    for ngram, found in image.counts.items():
        for reference, count in found:
            squares[reference][len(ngram) - 1] += (count * inverse[ngram]) ** 2
    return [[math.sqrt(square) for square in orders] for orders in squares]


def _cider(words: list[str], references: CountedReferences, norms: list[list[float]], weights: Weights) -> float:
    """Ten times the mean, over references and orders, of the clipped cosine times a penalty for another length."""
    squares = [0.0] * len(ORDERS)
    products = [[0.0] * len(ORDERS) for _ in norms]
    for ngram, count in Counter(ngrams(words)).items():
        inverse, order = weights.inverse.get(ngram, weights.documents), len(ngram) - 1
        weight = count * inverse
        squares[order] += weight * weight
        for reference, times in references.counts.get(ngram, ()):
            other = times * inverse
            products[reference][order] += min(weight, other) * other
    total = 0.0
    for length, orders, theirs in zip(references.lengths, products, norms, strict=True):
        cosines = (p / (math.sqrt(s) * norm) for p, s, norm in zip(orders, squares, theirs, strict=True) if s and norm)
        shorter = max(0, len(words) - 1) - max(0, length - 1)
        total += sum(cosines) * math.exp(-(shorter**2) / (2 * SIGMA**2))
    return 10 * total / len(ORDERS) / len(norms)
