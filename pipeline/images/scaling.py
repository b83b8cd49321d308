"""Scale pictures in memory that is bounded by the size of the result, whatever their shape.

A picture of 1 x 1,000,000 pixels is a file of 4 kB and passes every limit on what is decoded. With
its shorter side scaled to 224 pixels, it would have 50,176,000,000 pixels. A picture whose longer
side is more than `MAX_RATIO` times the shorter one is therefore cropped or shortened before it is
scaled. Any other picture is scaled in one step.

Exported models are shipped with this file, so it imports only Pillow and reading.py.
"""

from typing import Literal

from PIL import Image
from PIL.Image import Resampling

from pipeline.images.reading import MAX_RATIO

# Colour around a padded picture. It is the mean colour of CLIP's training pictures, as in LLaVA-1.5
# (Liu et al., 2024, "Improved Baselines with Visual Instruction Tuning").
MEAN_COLOUR = (122, 116, 104)
# Averaging leaves at least this many values along a long side of a very long picture.
AVERAGES = 8192


def square(
    image: Image.Image, side: int, resize: Literal["squash", "crop", "pad"], resampling: Resampling
) -> Image.Image:
    """Return an RGB image scaled to side x side pixels. `squash` scales both sides; `crop` scales
    the shorter one and takes the centre; `pad` scales the longer one and fills the rest."""
    if resize == "crop":
        return _centre(image, side, resampling)
    if resize == "pad":
        return _padded(image, side, resampling)
    return less_long(image).resize((side, side), resampling)


def less_long(image: Image.Image) -> Image.Image:
    """Return the picture, shortened if its longer side is more than `MAX_RATIO` times the shorter
    one. It then holds averages of equal runs of pixels, fewer than 2 * `AVERAGES` along a side.

    Pillow makes every row wider before it reduces the number of rows. It also needs 32 bytes of
    weights for every pixel of a side.
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


def _padded(image: Image.Image, side: int, resampling: Resampling) -> Image.Image:
    """Return the whole picture in the middle of a square of `MEAN_COLOUR`.

    LLaVA fills the square first and scales it then. A long picture would need a square as wide as
    it is long, so the picture is scaled first. Only the pixels along the seam differ.
    """
    width, height = within(image.size, (side, side))
    found = Image.new("RGB", (side, side), MEAN_COLOUR)
    scaled = less_long(image).resize((width, height), resampling)
    found.paste(scaled, ((side - width) // 2, (side - height) // 2))
    return found


def middle(image: Image.Image) -> Image.Image:
    """Return the picture, or only its middle if its longer side is more than `MAX_RATIO` times the
    shorter one.

    The middle has exactly that ratio. Its centre square, and the surrounding pixels that a filter
    reads, stay the same.
    """
    longest = MAX_RATIO * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(length, longest) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def within(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (width, height) with the shape of `size` that fits in `box`. Each side is
    at least 1. For example, (640, 480) within (320, 1000) is (320, 240)."""
    (width, height), (widest, highest) = size, box
    if height * widest <= highest * width:
        return widest, max(1, round(height * widest / width))
    return max(1, round(width * highest / height)), highest
