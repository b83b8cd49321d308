"""How far a score would move with other images: the percentile bootstrap over images, paired between systems.

An image is drawn with all that belongs to it (Koehn, 2004; Efron and Tibshirani, 1993). What a metric takes from the whole
set stays as it is there, such as CIDEr's document frequencies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.files import fingerprint
from pipeline.metrics.shared.base import Array, Sums

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
BLOCK, DRAWN = 100, 2**17
"resamples, and images in them, drawn at once; bounds the memory"
SEED = 1
LEVEL = 0.95
ALPHA = 0.05
"a difference with a larger p is within noise"


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score with what it would be on other images."""

    value: float
    resamples: Array
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


def resample(parts: Sequence[Sums], images: int) -> dict[str, Array]:
    """Every score on RESAMPLES draws of `images` images, (RESAMPLES,), but for those that some draw does not have.

    Equal numbers of images are drawn alike: two systems on the same images, in the same order, are paired.
    """
    if not parts:
        return {}
    together = np.concatenate([part.statistics for part in parts], axis=1)
    sums = np.concatenate([counts @ together for counts in _draws(images)])
    splits = np.split(sums, np.cumsum([part.statistics.shape[1] for part in parts])[:-1], axis=1)
    drawn = {name: scores for part, own in zip(parts, splits, strict=True) for name, scores in part.score(own).items()}
    return {name: scores for name, scores in drawn.items() if not np.isnan(scores).any()}


def _draws(images: int) -> Iterator[Array]:
    """(at most BLOCK, images): how often each image is in each resample; the draws do not depend on how many come at once."""
    rng = np.random.default_rng(SEED)
    most = max(1, min(BLOCK, DRAWN // images))
    for start in range(0, RESAMPLES, most):
        rows = min(most, RESAMPLES - start)
        drawn = rng.integers(images, size=(rows, images)) + np.arange(rows)[:, None] * images
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(float)


def p_value(one: Estimate, other: Estimate) -> float | None:
    """Two-sided: twice the share of resamples in which the difference is gone or turned. None: other images."""
    if one.images != other.images:
        return None
    turned = np.sign(one.value - other.value) * (one.resamples - other.resamples) <= 0
    return min(1.0, 2 * float(turned.mean()))


def resample_table(resamples: dict[str, dict[str, Array]], images: dict[str, list[str]]) -> "pd.DataFrame":
    """Columns split, images and one per score; RESAMPLES rows a split.

    Args:
        images: split -> the ids that were resampled, in their order.
    """
    import pandas as pd

    tables = [
        pd.DataFrame({"split": split, "images": fingerprint(images[split]), **scores}, index=range(RESAMPLES))
        for split, scores in resamples.items()
    ]
    return pd.concat(tables, ignore_index=True)


def read_estimates(path: Path, scores: dict[str, dict[str, float]]) -> dict[tuple[str, str], Estimate]:
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
                out[str(split), str(metric)] = Estimate(known[metric], drawn, rows["images"].iloc[0])
    return out
