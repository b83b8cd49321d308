"""BLEU-1..4, corpus level with the closest reference length (Papineni et al., 2002), by pycocoevalcap."""

import numpy as np

from pipeline.metrics.base import Array, Candidates, References, Scores, Sums

ORDERS = range(1, 5)
TINY, SMALL = 1e-15, 1e-9
"pycocoevalcap's guards against division by zero, in numerators and denominators"


def score(candidates: Candidates, references: References) -> Scores:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=len(ORDERS))
    for image, text in candidates.items():
        scorer += (text, references[image])
    corpus, sentences = scorer.compute_score(option="closest", verbose=0)
    names = [f"bleu_{n}" for n in ORDERS]
    per_image = {name: dict(zip(candidates, row, strict=True)) for name, row in zip(names, sentences, strict=True)}
    return Scores(dict(zip(names, map(float, corpus), strict=True)), per_image, Sums(_statistics(scorer.ctest), of_sums))


def _statistics(counted: list[dict[str, list[int]]]) -> Array:
    """(N, 10): clipped n-gram matches and n-grams of the caption by order, its length, the closest reference length."""
    rows = []
    for caption in counted:
        length = caption["testlen"]
        closest = min((abs(other - length), other) for other in caption["reflen"])[1]  # type: ignore[operator]
        rows.append([*caption["correct"], *caption["guess"], length, closest])
    return np.array(rows, dtype=float)


def of_sums(sums: Array) -> dict[str, Array]:
    """(..., 10) -> (...): geometric mean of the precisions of orders 1..n, times the brevity penalty."""
    matches, guesses, lengths = sums[..., :4], sums[..., 4:8], sums[..., 8:]
    precisions = np.multiply.accumulate((matches + TINY) / (guesses + SMALL), axis=-1)
    ratio = (lengths[..., 0] + TINY) / (lengths[..., 1] + SMALL)
    penalty: Array = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return {f"bleu_{n}": precisions[..., n - 1] ** (1 / n) * penalty for n in ORDERS}
