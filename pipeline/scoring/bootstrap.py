"""How far a score would move with other images: the bootstrap."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.files import fingerprint
from pipeline.experiment.protocols import STANDARD
from pipeline.metrics.shared.base import Array, Sums
from pipeline.results.estimates import RESAMPLES
from pipeline.results.scores import OWN

if TYPE_CHECKING:
    import pandas as pd

BLOCK, DRAWN = 100, 2**17
"resamples, and images in them, drawn at once; bounds the memory"
SEED = 1


def resample(parts: Sequence[Sums], images: int) -> dict[str, Array]:
    """Every score on RESAMPLES draws of `images` images, (RESAMPLES,), but for those that some draw
    does not have.

    Equal numbers of images are drawn alike: two systems on the same images, in the same order, are
    paired.
    """
    if not parts:
        return {}
    together = np.concatenate([part.statistics for part in parts], axis=1)
    sums = np.concatenate([counts @ together for counts in _draws(images)])
    splits = np.split(sums, np.cumsum([part.statistics.shape[1] for part in parts])[:-1], axis=1)
    drawn = {
        name: scores
        for part, own in zip(parts, splits, strict=True)
        for name, scores in part.score(own).items()
    }
    return {name: scores for name, scores in drawn.items() if not np.isnan(scores).any()}


def _draws(images: int) -> Iterator[Array]:
    """(at most BLOCK, images): how often each image is in each resample; the draws do not depend on
    how many come at once."""
    rng = np.random.default_rng(SEED)
    most = max(1, min(BLOCK, DRAWN // images))
    for start in range(0, RESAMPLES, most):
        rows = min(most, RESAMPLES - start)
        drawn = rng.integers(images, size=(rows, images)) + np.arange(rows)[:, None] * images
        yield (
            np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(float)
        )


def resample_table(
    resamples: dict[str, dict[str, Array]],
    images: dict[str, list[str]],
    protocol: str = STANDARD,
    seed: str = OWN,
) -> "pd.DataFrame":
    """Columns split, protocol, seed, images and one per score; RESAMPLES rows a split.

    Args:
        images: split -> the ids that were resampled, in their order.
    """
    import pandas as pd

    tables = []
    for split, scores in resamples.items():
        about = {"split": split, "protocol": protocol, "seed": seed}
        about["images"] = fingerprint(images[split])
        tables.append(pd.DataFrame({**about, **scores}, index=range(RESAMPLES)))
    return pd.concat(tables, ignore_index=True)
