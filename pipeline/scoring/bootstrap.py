"""The bootstrap, which estimates how much a score would vary with other images."""

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

# Largest number of resamples drawn at once, and of images in them. Both limit the memory.
BLOCK, DRAWN = 100, 2**17
SEED = 1


def resample(parts: Sequence[Sums], images: int) -> dict[str, Array]:
    """Return every score on RESAMPLES draws of `images` images, each (RESAMPLES,). A score that is
    undefined on any draw is left out.

    The draws depend only on the number of images. Two systems scored on the same images in the same
    order are therefore paired.
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
    """Yield how often each image is in each resample, (at most BLOCK, images). The block size does
    not change the draws."""
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
    """Return a table with RESAMPLES rows per split. Its columns are split, protocol, seed, images
    (a fingerprint of the ids) and one per score.

    Args:
        images: split -> the image ids that were resampled, in their order.
    """
    import pandas as pd

    tables = []
    for split, scores in resamples.items():
        about = {"split": split, "protocol": protocol, "seed": seed}
        about["images"] = fingerprint(images[split])
        tables.append(pd.DataFrame({**about, **scores}, index=range(RESAMPLES)))
    return pd.concat(tables, ignore_index=True)
