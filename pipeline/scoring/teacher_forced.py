"""BLEU of argmax ids under teacher forcing, computed like nltk's corpus_bleu. Some papers print
this as BLEU, although no caption is generated.

Each reference gives one hypothesis: the most likely token at each position, given the reference's
own previous words. End and unknown tokens count. The hypothesis is compared with all references of
the image, as ids.
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
    """Return the sums of one split's images.

    Args:
        rows: image_id, reference and argmax; one row per reference.

    Returns:
        One row per image, in the order of their ids: matches and n-grams by order, the length of
        the hypotheses, and the length of the closest references.
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
    """Return BLEU (...) of sums (..., 10): the geometric mean of the precisions times the brevity
    penalty. It is 0 if no word matches, as in nltk."""
    matches, guesses, length, closest = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    with np.errstate(divide="ignore"):
        logs = np.log(matches / guesses)
    # Beyond the first order, nltk replaces a precision of 0 by the smallest float. If no word
    # matches, it returns 0.
    logs[..., 1:] = np.maximum(logs[..., 1:], np.log(np.finfo(float).tiny))
    penalty = np.where(length > closest, 1.0, np.exp(1 - closest / np.maximum(length, 1)))
    return {f"bleu_{n}": np.exp(logs[..., :n].mean(-1)) * penalty for n in ORDERS}
