"""One safe way from bytes to an RGB picture, whatever its format, its size or the state it is
in."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import UserError, one_line

MAX_PIXELS = 64_000_000
"more than any camera in use; a picture this large takes 192 MB when decoded"

# Pillow warns of large pictures and of broken EXIF blocks; the first are errors here, the second do
# no harm.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(UserError):
    """Why a file cannot be used as a picture, in a few words."""


def read_image(data: bytes | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture to RGB: upright by its EXIF orientation, transparency on white, 16 bits
    scaled to 8, frame one.

    Raises:
        ImageError: the file is missing, empty, no picture, truncated or broken, or has more than
            `max_pixels` pixels (which is read from its header, before anything is decoded).
    """
    content = _content(data)
    try:
        image = Image.open(BytesIO(content))
    except Image.DecompressionBombError:
        raise ImageError(f"more than {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageError("not a picture") from None
    except Exception as error:  # a broken header makes Pillow's readers fail in many ways
        raise ImageError(f"broken ({one_line(error)})") from None
    if image.width * image.height > max_pixels:
        raise ImageError(f"{image.width} x {image.height}, more than {max_pixels:,} pixels")
    try:
        image.load()
    except Exception as error:
        raise ImageError(
            "truncated" if "truncated" in str(error) else f"broken ({one_line(error)})"
        ) from None
    return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any decoded picture as `read_image` gives it."""
    return _rgb(_upright(image))


def _content(data: bytes | Path) -> bytes:
    try:
        content = data.read_bytes() if isinstance(data, Path) else data
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from None
    if not content:
        raise ImageError("empty file")
    return content


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture is not lost for a broken EXIF block
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        scale = 257 if values.max(initial=0) > 255 or image.mode.startswith("I;16") else 1
        return Image.fromarray((values / scale).clip(0, 255).round().astype(np.uint8)).convert(
            "RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
