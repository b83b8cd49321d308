"""The interface of every encoder: B images, P grid positions, D dimensions.

An encoder's file has a class `Encoder` and a function `shapes`. The function returns what the same
arguments would give, from shapes alone. It does not allocate, read or fetch weights, so a graph can
be costed before anything runs.
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

    The features of an image depend only on its own pixels, not on its batch or on earlier images.
    An encoder may name the type in which its grid is stored in `grid_dtype` (default "float16"; see
    pixels.py). An encoder that sees only the centre square of a picture sets `crops`, and one that
    sees the whole picture in the middle of a filled square sets `pads` (default False: it sees the
    whole picture as a square).
    """

    grid_dim: int
    pooled_dim: int
    positions: int

    def transform(self, image: "Image") -> "Tensor": ...  # (3, S, S) uint8

    def __call__(self, pixels: "Tensor") -> Features: ...  # (B, 3, S, S) uint8 -> float32

    def to(self, device: str) -> "Encoder": ...


class Shapes(NamedTuple):
    """Result of `shapes(**args)` in an encoder's file, for the arguments of its Encoder."""

    positions: int
    grid_dim: int
    pooled_dim: int
    parameters: int
    """Number of parameters of the whole network as published, including parts that the features do
    not need."""


def shapes_of(build: Callable[..., Any], **args: Any) -> Shapes:
    """Return the shapes of the encoder `build(**args)`. It is built on torch's meta device, where
    tensors have shapes but no storage."""
    import torch

    leave_out_compiler()
    with torch.device("meta"):
        encoder = build(**args)
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return Shapes(encoder.positions, encoder.grid_dim, encoder.pooled_dim, parameters)


def square(
    image: "Image", side: int, resize: Literal["squash", "crop", "pad"], resampling: Resampling
) -> "Tensor":
    """Return an RGB image as (3, side, side) uint8. `squash` scales both sides; `crop` scales the
    shorter one and takes the centre; `pad` scales the longer one and fills the rest."""
    import torch

    scaled = scaling.square(image, side, resize, resampling)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)
