"""Features as they are kept: in float16, or in int8 with a scale per vector, which is half of it.

A model is trained on what was kept, so whoever gives it fresh features rounds them in the same way.
"""

from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.features.features import Features

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 127
SCALE_BYTES = 4
"of a vector"


def to_int8(x: "Tensor") -> "tuple[Tensor, Tensor]":
    """Vectors (..., D) -> int8 (..., D) and scales (...), float32: the largest absolute value of a
    vector becomes 127.

    Symmetric, so that the zeros behind a ReLU stay zeros. An error is at most half a scale, 0.4 %
    of that largest value.
    """
    import torch

    x = x.float()
    scale = x.abs().amax(-1) / LARGEST
    steps = x / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    return steps.round().to(torch.int8), scale


def from_int8(values: "Tensor", scale: "Tensor") -> "Tensor":
    """float32 (..., D)."""
    return values.float() * scale[..., None]


def as_stored(f: Features, dtype: str) -> Features:
    """What a store of this type gives back for these features, float32."""
    if dtype == "int8":
        return Features(from_int8(*to_int8(f.grid)), from_int8(*to_int8(f.pooled)))
    return Features(f.grid.half().float(), f.pooled.half().float())


def grid_dtype(encoder: object, dtype: str) -> str:
    """Of the grid's files: an encoder, or its class, may have a type of its own (`pixels`: uint8,
    which loses nothing).

    Raises:
        UserError: it has, and int8 is asked for.
    """
    own: str | None = getattr(encoder, "grid_dtype", None)
    if own and dtype != "float16":
        raise UserError(
            f"dtype {dtype} is not for this encoder: it keeps its grid as {own}: write "
            "dtype: float16"
        )
    return own or dtype
