"""BLEU-1..4 at corpus level, with the closest reference length (Papineni et al., 2002), as in
pycocoevalcap."""

import numpy as np

from pipeline.metrics.shared.base import (
    Array,
    Candidates,
    References,
    Scores,
    Sums,
    counted,
    reference_set,
)
from pipeline.metrics.shared.ngrams import ORDERS, Counted, matches
from pipeline.metrics.shared.texts import Ints, Texts

# pycocoevalcap's guards against division by zero, in numerators and denominators.
TINY, SMALL = 1e-15, 1e-9


def score(candidates: Candidates, references: References) -> Scores:
    known = counted(reference_set(candidates, references))
    said, size = known.number(candidates.values())
    lengths = said.lengths[:, None]
    guesses = np.maximum(0, lengths - np.array(ORDERS) + 1)
    rows = [_clipped(said, known, size), guesses, lengths, _closest(said, known.texts)[:, None]]
    sums = Sums(np.concatenate(rows, axis=1).astype(float), of_sums)
    corpus = {name: float(value) for name, value in of_sums(sums.statistics.sum(0)).items()}
    per_image = {
        n: dict(zip(candidates, v.tolist(), strict=True))
        for n, v in of_sums(sums.statistics).items()
    }
    return Scores(corpus, per_image, sums)


def _clipped(said: Texts, known: Counted, size: int) -> Ints:
    """Return (N, 4) the clipped n-gram matches of each caption by order.

    An n-gram counts at most as often as in the reference that has it most often.
    """
    out = np.zeros((len(said.lengths), len(ORDERS)), np.int64)
    for images, part in said.parts():
        for grams, found in matches(part, known.texts.part(images), known, size):
            most = np.zeros(len(grams.keys), np.int64)
            np.maximum.at(most, found.gram, found.counts)
            clipped = np.bincount(grams.text, np.minimum(grams.counts, most), len(images))
            out[images, grams.order - 1] = clipped
    return out


def _closest(said: Texts, references: Texts) -> Ints:
    """Return (N,) the reference length that is closest to the caption's, the shorter one of two
    that are equally close."""
    lengths = references.lengths
    away = np.abs(lengths - np.repeat(said.lengths, np.diff(references.firsts)))
    if not len(away):
        return away
    longest = lengths.max() + 1
    closest: Ints = np.minimum.reduceat(away * longest + lengths, references.firsts[:-1]) % longest
    return closest


def of_sums(sums: Array) -> dict[str, Array]:
    """Return BLEU-1..4, (..., 10) -> (...).

    BLEU-n is the geometric mean of the precisions of orders 1..n, times the brevity penalty. The
    ten sums are: clipped n-gram matches by order, the caption's n-grams by order, its length, and
    the closest reference length.
    """
    matches, guesses, lengths = sums[..., :4], sums[..., 4:8], sums[..., 8:]
    precisions = np.multiply.accumulate((matches + TINY) / (guesses + SMALL), axis=-1)
    ratio = (lengths[..., 0] + TINY) / (lengths[..., 1] + SMALL)
    penalty: Array = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return {f"bleu_{n}": precisions[..., n - 1] ** (1 / n) * penalty for n in ORDERS}
