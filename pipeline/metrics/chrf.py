"""chrF (Popović, 2015): F2 of the n-grams of characters, orders 1 to 6, by sacrebleu.

Spaces do not count as characters, so chrF needs no words and works for any language. Of several
references, the one with the best chrF counts, as in sacrebleu. The scale is 0 to 1, not 0 to 100 as
sacrebleu prints it.
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.metrics.shared import languages
from pipeline.metrics.shared.base import Array, Candidates, References, Scores, Sums

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

READS = languages.ANY
ORDERS, BETA = 6, 2


def score(candidates: Candidates, references: References) -> Scores:
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF(char_order=ORDERS, word_order=0, beta=BETA)
    rows = [_statistics(chrf, text, references[image]) for image, text in candidates.items()]
    statistics = np.array(rows, dtype=float).reshape(-1, 3 * ORDERS)
    per_image = dict(zip(candidates, of_sums(statistics)["chrf"].tolist(), strict=True))
    corpus = float(of_sums(statistics.sum(0))["chrf"])
    return Scores({"chrf": corpus}, {"chrf": per_image}, Sums(statistics, of_sums))


def _statistics(chrf: "CHRF", text: str, references: list[str]) -> list[int]:
    """Return (18,) three counts per order: n-grams of the caption, of its best reference, and of
    both.

    sacrebleu sums these counts over captions, and has no public function for one caption.
    """
    known = chrf._extract_reference_info([*map(chrf._preprocess_segment, references)])
    found: list[int] = chrf._compute_segment_statistics(chrf._preprocess_segment(text), known)
    return found


def of_sums(sums: Array) -> dict[str, Array]:
    """Return chrF, (..., 18) -> (...).

    It is F of the mean precision and the mean recall over the orders that both sides have; 0 if
    nothing matches.
    """
    said, meant, both = np.moveaxis(sums.reshape(*sums.shape[:-1], ORDERS, 3), -1, 0)
    there = (said > 0) & (meant > 0)
    orders = np.maximum(1, there.sum(-1))
    precision = np.divide(both, said, out=np.zeros_like(both), where=there).sum(-1) / orders
    recall = np.divide(both, meant, out=np.zeros_like(both), where=there).sum(-1) / orders
    weighed = BETA**2 * precision + recall
    top = (1 + BETA**2) * precision * recall
    return {"chrf": np.divide(top, weighed, out=np.zeros_like(top), where=weighed > 0)}
