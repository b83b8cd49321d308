"""What every encoder gives: B images, P grid positions, D dimensions.

An encoder's file has a class `Encoder` and a function `shapes` that tells what the same arguments
would give, from shapes alone: no weights are allocated, read or fetched, so that a graph can be
costed before anything runs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from PIL.Image import Resampling

from pipeline.core.quick_torch import leave_out_compiler
from pipeline.features.features import Features
from pipeline.images import scaling

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

RESAMPLING = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}


class Encoder(Protocol):
    """A frozen network. `transform` runs in decoding threads; calls run on the device.

    The features of an image depend on nothing but its own pixels: not on its batch, nor on the
    images before it. An encoder may name the type in which its grid is stored in `grid_dtype`
    ("float16" without it; see pixels.py), and tell with `crops` that it sees the centre square of a
    picture alone (False without it: the whole picture as a square).
    """

    grid_dim: int
    pooled_dim: int
    positions: int

    def transform(self, image: "Image") -> "Tensor": ...  # (3, S, S) uint8

    def __call__(self, pixels: "Tensor") -> Features: ...  # (B, 3, S, S) uint8 -> float32

    def to(self, device: str) -> "Encoder": ...


class Shapes(NamedTuple):
    """What `shapes(**args)` of an encoder's file gives for the arguments of its Encoder."""

    positions: int
    grid_dim: int
    pooled_dim: int
    parameters: int
    "of the whole network as it is published, parts that the features do not need included"


def shapes_of(build: Callable[..., Any], **args: Any) -> Shapes:
    """Shapes of the encoder `build(**args)`, built where tensors have shapes and no storage
    (torch's meta device)."""
    import torch

    leave_out_compiler()
    with torch.device("meta"):
        encoder = build(**args)
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return Shapes(encoder.positions, encoder.grid_dim, encoder.pooled_dim, parameters)


def square(
    image: "Image", side: int, resize: Literal["squash", "crop"], resampling: Resampling
) -> "Tensor":
    """RGB image -> (3, side, side) uint8: `squash` scales both sides, `crop` the shorter one and
    takes the centre."""
    import torch

    scaled = scaling.square(image, side, resize, resampling)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)
