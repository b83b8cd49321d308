"""The percentile bootstrap over images, paired between systems. It estimates how much a score would
vary with other images.

An image is drawn together with everything that belongs to it (Koehn, 2004; Efron and Tibshirani,
1993). Values that a metric takes from the whole set, such as CIDEr's document frequencies, are not
resampled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.data.checked import need_columns, read_table

if TYPE_CHECKING:
    from pipeline.results.scores import Key, ScoreTable

RESAMPLES = 1000
LEVEL = 0.95
# A difference with a p-value of at least this is within noise.
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score with its values on resamples of the images."""

    value: float
    resamples: NDArray[np.float64]
    "Values on resamples of the images, (RESAMPLES,)."
    images: str
    "Fingerprint of the images. Only resamples of the same images pair."
    sd: float | None = None
    "Standard deviation over training seeds, if `value` and `resamples` are means over them."

    def less(self, other: "Estimate") -> "Estimate | None":
        """Return the difference, paired over images, or None if the images differ."""
        if self.images != other.images:
            return None
        return Estimate(self.value - other.value, self.resamples - other.resamples, self.images)

    @property
    def interval(self) -> tuple[float, float]:
        low, high = np.quantile(self.resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def p_value(one: Estimate, other: Estimate) -> float | None:
    """Return the two-sided p-value of a difference, or None if the images differ.

    It is twice the share of resamples in which the difference vanishes or changes sign, but at most
    1.
    """
    if one.images != other.images:
        return None
    turned = np.sign(one.value - other.value) * (one.resamples - other.resamples) <= 0
    return min(1.0, 2 * float(turned.mean()))


def read_estimates(path: Path, scores: "ScoreTable") -> "dict[Key, Estimate]":
    """Read a file of resamples (`resample_table`). The result is {} if there is no file.

    Args:
        scores: the scores on the whole set. Resamples of other scores are left out.
    """
    if not path.is_file():
        return {}
    table = read_table(path)
    need_columns(table.columns.tolist(), ["split", "protocol", "seed", "images"], path)
    places = table.groupby(["split", "protocol", "seed"], sort=False).indices
    images = table["images"].to_numpy()
    columns = {name: table[name].to_numpy() for name in table.columns}
    out = {}
    for score in scores:
        rows = places.get((score.split, score.protocol, score.seed))
        if rows is None or score.metric not in columns:
            continue
        drawn = columns[score.metric][rows].astype(float)
        if not np.isnan(drawn).any():  # empty cells belong to groups without this metric
            out[score.key] = Estimate(score.value, drawn, images[rows[0]], score.sd)
    return out
