"""Features as they are kept: in float16, or in int8 with one scale per vector, which takes half the
space.

A model is trained on what was kept, so fresh features for it must be rounded in the same way.
"""

from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.features.features import Features

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 127
# Bytes of the scale of one vector.
SCALE_BYTES = 4


def to_int8(x: "Tensor") -> "tuple[Tensor, Tensor]":
    """Return vectors (..., D) as int8 (..., D) with float32 scales (...). The largest absolute
    value of a vector becomes 127.

    The range is symmetric, so zeros after a ReLU stay zeros. An error is at most half a scale,
    which is 0.4% of that largest value.
    """
    import torch

    x = x.float()
    scale = x.abs().amax(-1) / LARGEST
    steps = x / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    return steps.round().to(torch.int8), scale


def from_int8(values: "Tensor", scale: "Tensor") -> "Tensor":
    """Return the vectors as float32 (..., D)."""
    return values.float() * scale[..., None]


def as_stored(f: Features, dtype: str) -> Features:
    """Return these features as a store of this type gives them back, in float32.

    Raises:
        UserError: a value is not finite, or not in this type.
    """
    if dtype == "int8":
        kept = Features(from_int8(*to_int8(f.grid)), from_int8(*to_int8(f.pooled)))
    else:
        kept = Features(f.grid.half().float(), f.pooled.half().float())
    if not_finite(kept.grid) is not None or not_finite(kept.pooled) is not None:
        raise UserError(
            f"an image's features are not finite in {dtype}: check the encoder's weights"
        )
    return kept


def not_finite(x: "Tensor") -> int | None:
    """Return the first of the rows (B, ...) that has an infinite value or none at all (NaN); None
    if there is no such row."""
    import torch

    # One pass tells nearly always; a sum is faster than a look at each value.
    if not x.is_floating_point() or torch.isfinite(x.sum(dtype=torch.float32)):
        return None
    bad = ~x.isfinite().flatten(1).all(1) if x.ndim > 1 else ~x.isfinite()
    return int(bad.nonzero()[0]) if bad.any() else None


def grid_dtype(encoder: object, dtype: str) -> str:
    """Return the dtype of the grid's files. An encoder, or its class, may have its own (`pixels`
    has uint8, which loses nothing).

    Raises:
        UserError: the encoder has its own dtype, and int8 is asked for.
    """
    own: str | None = getattr(encoder, "grid_dtype", None)
    if own and dtype != "float16":
        raise UserError(
            f"dtype {dtype} is not for this encoder: it keeps its grid as {own}: write "
            "dtype: float16"
        )
    return own or dtype
