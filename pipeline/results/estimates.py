"""How far a score would move with other images: the percentile bootstrap over images, paired
between systems.

An image is drawn with all that belongs to it (Koehn, 2004; Efron and Tibshirani, 1993). What a
metric takes from the whole set stays as it is there, such as CIDEr's document frequencies.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass

RESAMPLES = 1000
LEVEL = 0.95
ALPHA = 0.05
"a difference with a larger p is within noise"


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score with what it would be on other images."""

    value: float
    resamples: NDArray[np.float64]
    "(RESAMPLES,)"
    images: str
    "stands for the images; only resamples of the same ones pair"
    sd: float | None = None
    "over training seeds, of which `value` and `resamples` are the mean"

    def less(self, other: "Estimate") -> "Estimate | None":
        """The difference, image by image paired. None: other images."""
        if self.images != other.images:
            return None
        return Estimate(self.value - other.value, self.resamples - other.resamples, self.images)

    @property
    def interval(self) -> tuple[float, float]:
        low, high = np.quantile(self.resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def p_value(one: Estimate, other: Estimate) -> float | None:
    """Two-sided: twice the share of resamples in which the difference is gone or turned. None:
    other images."""
    if one.images != other.images:
        return None
    turned = np.sign(one.value - other.value) * (one.resamples - other.resamples) <= 0
    return min(1.0, 2 * float(turned.mean()))


def read_estimates(
    path: Path, scores: dict[str, dict[str, float]]
) -> dict[tuple[str, str], Estimate]:
    """(split, metric) -> estimate, of what a `resample_table` holds; nothing where there is none.

    Args:
        scores: split -> metric -> the score on the whole set.
    """
    import pandas as pd

    if not path.is_file():
        return {}
    out = {}
    for split, rows in pd.read_parquet(path).groupby("split"):
        known = scores.get(str(split), {})
        for metric in rows.columns.intersection(list(known)):
            drawn = rows[metric].to_numpy(dtype=float)
            if not np.isnan(drawn).any():  # measured on the other split only
                out[str(split), str(metric)] = Estimate(
                    known[metric], drawn, rows["images"].iloc[0]
                )
    return out
