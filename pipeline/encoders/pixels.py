"""No network: the picture itself, for decoders that train their own network from the pixels on
(vit_gpt2).

The grid is the picture: S x S positions of the three colours, 0-255. It is stored as bytes, 150 kB
per picture at 224 pixels, as much as a float16 map of 1536 x 7 x 7. Like every grid, it comes back
as float32 (B, P, D). `grid.transpose(1, 2).unflatten(2, (S, S))` is (B, 3, S, S) again, with S the
square root of P. The decoder normalises by its own mean and standard deviation. The pooled vector
is the mean of the grid, here the mean colour.
"""

from typing import Any, Literal

from PIL import Image
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.ranges import Pixels
from pipeline.encoders.shared.base import RESAMPLING, Shapes, shapes_of, square
from pipeline.features.features import Features


class Encoder(nn.Module):
    """The picture as the network of an end-to-end model sees it.

    Args:
        image_size: side S in pixels.
        resize: `squash` scales both sides to S; `crop` scales the shorter side to S and takes the
            centre; `pad` scales the longer side to S and fills the rest with a mean colour.
        interpolation: method of resizing.
    """

    grid_dtype = "uint8"
    grid_dim = pooled_dim = 3

    def __init__(
        self,
        *,
        image_size: Pixels,
        resize: Literal["squash", "crop", "pad"] = "squash",
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ):
        super().__init__()
        if image_size < 1:
            raise UserError(
                f"pixels: image_size is {image_size}: give the side of the picture in pixels"
            )
        self.size, self.resize, self.resampling = image_size, resize, RESAMPLING[interpolation]
        self.positions = image_size**2
        self.crops, self.pads = resize == "crop", resize == "pad"

    def transform(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, S, S) uint8."""
        return square(image, self.size, self.resize, self.resampling)

    def forward(self, pixels: Tensor) -> Features:
        """(B, 3, S, S) uint8 -> grid (B, S * S, 3), row by row, and pooled (B, 3), float32 of
        0-255."""
        grid = pixels.flatten(2).transpose(1, 2).float()
        return Features(grid, grid.mean(1))


def shapes(**args: Any) -> Shapes:
    return shapes_of(Encoder, **args)
