"""BLEU-1..4, corpus level with the closest reference length (Papineni et al., 2002), as pycocoevalcap has it."""

from collections import Counter

import numpy as np

from pipeline.metrics.base import (
    ORDERS,
    Array,
    Candidates,
    CountedReferences,
    References,
    Scores,
    Sums,
    counted,
    ngrams,
    reference_set,
)

TINY, SMALL = 1e-15, 1e-9
"pycocoevalcap's guards against division by zero, in numerators and denominators"


def score(candidates: Candidates, references: References) -> Scores:
    known = counted(reference_set(candidates, references))
    rows = [_statistics(text.split(), refs) for text, refs in zip(candidates.values(), known, strict=True)]
    sums = Sums(np.array(rows, dtype=float).reshape(-1, 2 * len(ORDERS) + 2), of_sums)
    corpus = {name: float(value) for name, value in of_sums(sums.statistics.sum(0)).items()}
    per_image = {n: dict(zip(candidates, v.tolist(), strict=True)) for n, v in of_sums(sums.statistics).items()}
    return Scores(corpus, per_image, sums)


def _statistics(words: list[str], references: CountedReferences) -> list[int]:
    """(10,): clipped n-gram matches and n-grams of the caption by order, its length, the closest reference length."""
    matches = [0] * len(ORDERS)
    for ngram, count in Counter(ngrams(words)).items():
        found = references.counts.get(ngram)
        if found:
            matches[len(ngram) - 1] += min(count, max(times for _, times in found))
    length = len(words)
    closest = min(references.lengths, key=lambda other: (abs(other - length), other))
    return [*matches, *(max(0, length - n + 1) for n in ORDERS), length, closest]


def of_sums(sums: Array) -> dict[str, Array]:
    """(..., 10) -> (...): geometric mean of the precisions of orders 1..n, times the brevity penalty."""
    matches, guesses, lengths = sums[..., :4], sums[..., 4:8], sums[..., 8:]
    precisions = np.multiply.accumulate((matches + TINY) / (guesses + SMALL), axis=-1)
    ratio = (lengths[..., 0] + TINY) / (lengths[..., 1] + SMALL)
    penalty: Array = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return {f"bleu_{n}": precisions[..., n - 1] ** (1 / n) * penalty for n in ORDERS}
