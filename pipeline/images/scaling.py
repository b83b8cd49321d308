"""Pictures scaled in memory that is bounded by the result, whatever shape the picture has.

A picture of 1 x 1,000,000 pixels is a file of 4 kB and passes every limit on what is decoded. With
its shorter side scaled to 224 pixels it would have 50,176,000,000. So a picture whose longer side
is more than `MAX_RATIO` times the shorter one is cut or made shorter before it is scaled; any other
is scaled in one step.

Exported models are shipped with this very file, so it imports Pillow and reading.py alone.
"""

from typing import Literal

from PIL import Image
from PIL.Image import Resampling

from pipeline.images.reading import MAX_RATIO

AVERAGES = 8192
"along a side of a very long picture, at least, before it is scaled"


def square(
    image: Image.Image, side: int, resize: Literal["squash", "crop"], resampling: Resampling
) -> Image.Image:
    """RGB image -> side x side pixels: `squash` scales both sides, `crop` the shorter one and takes
    the centre."""
    if resize == "crop":
        return _centre(image, side, resampling)
    return less_long(image).resize((side, side), resampling)


def less_long(image: Image.Image) -> Image.Image:
    """The picture as it is; of one longer than `MAX_RATIO` times its width, averages of equal runs
    of pixels, fewer than 2 * `AVERAGES` along a side.

    Pillow makes every row wider before it makes the rows fewer, and weighs every pixel of a side
    with 32 bytes.
    """
    if max(image.size) <= MAX_RATIO * min(image.size):
        return image
    width, height = (max(1, length // AVERAGES) for length in image.size)
    return image.reduce((width, height))


def _centre(image: Image.Image, side: int, resampling: Resampling) -> Image.Image:
    image = middle(image)
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    image = image.resize((width, height), resampling)
    return image.crop((left, top, left + side, top + side))


def middle(image: Image.Image) -> Image.Image:
    """The picture as it is; of one longer than `MAX_RATIO` times its width, the middle of that
    shape.

    Its centre square, and what a filter sees around it, are the same.
    """
    longest = MAX_RATIO * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(length, longest) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def within(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) of the same shape as `size` that lies within `box`, each at least
    1: (640, 480) within (320, 1000) is (320, 240)."""
    (width, height), (widest, highest) = size, box
    if height * widest <= highest * width:
        return widest, max(1, round(height * widest / width))
    return max(1, round(width * highest / height)), highest
