"""Draw weights over the positions of a grid as a heat map on the picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

# Pixels of the longer side.
SIDE = 160
# Matplotlib's colour map. It is perceptually uniform from black to pale yellow, so a grey print
# shows the same.
COLOURS = "inferno"
# Share of the colour in the blend. The rest is the picture in grey.
HEAT = 0.6


def overlay(
    image: Image.Image,
    weights: Sequence[float],
    shape: tuple[int, int],
    crops: bool = False,
    pads: bool = False,
    top: float = 0.0,
    side: int = SIDE,
) -> Image.Image:
    """Return the picture in grey under its heat map, `side` pixels along the longer side.

    A coarse grid is smoothed.

    Args:
        image: RGB picture, upright.
        weights: one weight per position (P,), none negative.
        shape: rows and columns of the grid.
        crops: whether the encoder saw only the centre square; then only that is shown.
        pads: whether the encoder saw the whole picture in the middle of a filled square; the map
            then also covers what was filled, which is not shown.
        top: the weight of the brightest colour, which makes the words of a caption comparable.
            0 takes the largest of these weights. A weight of 0 is always black, so an even map
            stays even: noise is not enlarged.
    """
    from matplotlib import colormaps

    picture = _fitted(centre_square(image) if crops else image, side).convert("L")
    values = np.asarray(weights, np.float32).reshape(shape)
    over = (max(picture.size),) * 2 if pads else picture.size
    heat = np.asarray(
        Image.fromarray(values / (top or values.max() or 1.0))
        .resize(over, Image.Resampling.BICUBIC)
        .crop(_middle(over, picture.size))
    )
    colour = np.asarray(colormaps[COLOURS](heat.clip(0, 1), bytes=True))[..., :3]
    return Image.blend(picture.convert("RGB"), Image.fromarray(colour), HEAT)


def centre_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    return image.crop(_middle(image.size, (side, side)))


def _middle(size: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of size `inner` in the middle of `size`."""
    left, upper = ((whole - part) // 2 for whole, part in zip(size, inner, strict=True))
    return left, upper, left + inner[0], upper + inner[1]


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.BICUBIC,
    )
