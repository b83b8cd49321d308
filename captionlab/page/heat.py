"""Weights over the positions of a grid, laid over the picture as heat."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 160
"pixels of the longer side"
COLOURS = "inferno"
"of matplotlib: perceptually uniform from black to pale yellow, so that a grey print tells the same"
HEAT = 0.6
"share of the colour in the blend; the rest is the picture in grey"


def overlay(
    image: Image.Image,
    weights: Sequence[float],
    shape: tuple[int, int],
    crops: bool = False,
    top: float = 0.0,
    side: int = SIDE,
) -> Image.Image:
    """The picture in grey under its heat, `side` pixels along the longer side; a coarse grid is
    made smooth.

    Args:
        image: RGB, upright.
        weights: of every position (P,), none negative.
        shape: rows and columns of the grid.
        crops: the encoder saw the centre square alone, which is then all that is shown.
        top: the weight of the brightest colour, to compare the words of a caption; 0: the largest
            of these weights. Nothing is always black: an even map is even, not noise made large.
    """
    from matplotlib import colormaps

    picture = _fitted(centre_square(image) if crops else image, side).convert("L")
    values = np.asarray(weights, np.float32).reshape(shape)
    heat = np.asarray(
        Image.fromarray(values / (top or values.max() or 1.0)).resize(
            picture.size, Image.Resampling.BICUBIC
        )
    )
    colour = np.asarray(colormaps[COLOURS](heat.clip(0, 1), bytes=True))[..., :3]
    return Image.blend(picture.convert("RGB"), Image.fromarray(colour), HEAT)


def centre_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, upper, left + side, upper + side))


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.BICUBIC,
    )
