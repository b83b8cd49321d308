"""BLEU of argmax ids under teacher forcing, as nltk's corpus_bleu: what some papers print as
BLEU, and no caption was generated.

One hypothesis per reference: the likeliest token at each of its places, given the reference's own
words before it. End and unknown tokens count. All references of the image, as ids, are its
references.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_

import numpy as np
import pandas as pd

from pipeline.metrics.shared.base import Array, Sums

ORDERS = (1, 2, 3, 4)


def teacher_forced_sums(rows: pd.DataFrame) -> Sums:
    """Args: rows: image_id, reference, argmax; a row per reference of one split.

    Returns:
        By image, in the order of their ids: matches and n-grams by order, length of the hypotheses,
        and of the closest references.
    """
    statistics = [
        _image(list(of.argmax), list(of.reference)) for _, of in rows.groupby("image_id", sort=True)
    ]
    return Sums(np.array(statistics, dtype=float), of_sums)


def _image(hypotheses: list[Sequence[int]], references: list[Sequence[int]]) -> list[float]:
    texts = [tuple(map(int, reference)) for reference in references]
    lengths = sorted(len(text) for text in texts)
    known = {n: reduce(or_, (Counter(_ngrams(text, n)) for text in texts)) for n in ORDERS}
    total = np.zeros(10)
    for hypothesis in hypotheses:
        words = tuple(map(int, hypothesis))
        said = {n: Counter(_ngrams(words, n)) for n in ORDERS}
        closest = min(lengths, key=lambda length: abs(length - len(words)))
        total += [
            *((said[n] & known[n]).total() for n in ORDERS),
            *(max(1, said[n].total()) for n in ORDERS),
            *(len(words), closest),
        ]
    return list(total)


def _ngrams(words: tuple[int, ...], n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def of_sums(sums: Array) -> dict[str, Array]:
    """(..., 10) -> (...): geometric mean of the precisions times the brevity penalty; 0 where no
    n-gram matches, as in nltk."""
    matches, guesses, length, closest = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    with np.errstate(divide="ignore"):
        logs = np.log(matches / guesses)
    # nltk puts the smallest float for a precision of 0 beyond the first order, and gives 0 where no
    # word matches
    logs[..., 1:] = np.maximum(logs[..., 1:], np.log(np.finfo(float).tiny))
    penalty = np.where(length > closest, 1.0, np.exp(1 - closest / np.maximum(length, 1)))
    return {f"bleu_{n}": np.exp(logs[..., :n].mean(-1)) * penalty for n in ORDERS}
