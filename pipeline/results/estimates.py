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

from pipeline.data.checked import need_columns, read_table

if TYPE_CHECKING:
    from pipeline.results.scores import Key, ScoreTable

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


def read_estimates(path: Path, scores: "ScoreTable") -> "dict[Key, Estimate]":
    """What a file of resamples (`resample_table`) holds; {} where there is no file.

    Args:
        scores: on the whole set; resamples of other scores are left out.
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
