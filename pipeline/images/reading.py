"""The one way to an RGB picture from a file, its bytes, an opened picture or an array, whatever its
format, size or condition.

Exported models are shipped with this file, so it imports only Pillow, numpy and core.errors.
"""

import os
import stat
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.core.errors import UserError, one_line

# Maximum number of bytes of a picture's file. A picture of MAX_PIXELS without compression has
# 192,000,000 bytes.
MAX_BYTES = 256_000_000
# Maximum number of pixels, more than any camera in use has. A picture this large takes 192 MB when
# decoded.
MAX_PIXELS = 64_000_000
# Maximum of pixels times scans of a JPEG: some seconds of work. A progressive photograph of
# MAX_PIXELS in the usual 10 scans has 640,000,000; a file of a few kB can ask for any number.
MAX_SCANNED = 1_000_000_000
# Ratio of the longer side to the shorter one. Beyond it, pictures are scaled in a way that takes
# less memory (see scaling.py).
MAX_RATIO = 16
# Formats that Pillow passes to another program, such as Ghostscript. They are not read.
DRAWN_BY_OTHERS = {"EPS", "WMF"}

# Pillow warns about large pictures, which are errors here, and about broken EXIF blocks, which are
# harmless.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(UserError):
    """Why a file cannot be used as a picture, in a few words."""


def read_image(
    source: bytes | Path | Image.Image | np.ndarray, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode a picture to RGB: upright by its EXIF orientation, transparency on white, first frame.

    Grey of 16 bits is scaled to 8 bits. So is grey of 32 bits if a value exceeds 255. Floats of 0-1
    (none exceeds 1) are multiplied by 255. NaN becomes black.

    Args:
        source: the content of a file, its path, an opened picture, or an array (H, W, 3) of whole
            numbers from 0 to 255.

    Raises:
        ImageError: the file is missing, empty, larger than `MAX_BYTES`, not a picture, truncated or
            broken. Or it is not a regular file: a pipe would block, and a device has no end. Or the
            picture has more than `max_pixels` pixels, or is a JPEG of more than `MAX_SCANNED`
            pixels times scans. The size in bytes is checked before anything is read. The size in
            pixels is read from the header before anything is decoded.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    image = source if isinstance(source, Image.Image) else _opened(source, max_pixels)
    _check_pixels(image.width, image.height, max_pixels)
    try:
        image.load()
        return _rgb(_upright(image))
    except MemoryError:
        raise ImageError(_no_memory(image)) from None
    except Exception as error:
        raise ImageError(
            "truncated" if "truncated" in str(error) else f"broken ({one_line(error)})"
        ) from None


def _opened(source: bytes | Path, max_pixels: int) -> Image.Image:
    """Open a picture and read its header; nothing is decoded yet."""
    content = _content_of(source) if isinstance(source, Path) else source
    if not content:
        raise ImageError("empty file")
    _check_bytes(len(content))
    try:
        image = Image.open(BytesIO(content))
    except Image.DecompressionBombError:
        raise ImageError(f"more than {max_pixels:,} pixels: scale it down") from None
    except UnidentifiedImageError:
        raise ImageError("not a picture") from None
    except Exception as error:  # a broken header makes Pillow's readers fail in many ways
        raise ImageError(f"broken ({one_line(error)})") from None
    if isinstance(image, JpegImageFile):
        _check_pixels(image.width, image.height, max_pixels)
        _check_scans(image.width * image.height, scans(image, content))
    if image.format in DRAWN_BY_OTHERS:
        raise ImageError(f"{image.format}, which this program cannot draw: save it as PNG or JPEG")
    return image


def _content_of(path: Path) -> bytes:
    try:
        # Checked before opening, because opening a device can start it. Checked again afterwards,
        # because the name may refer to another file by then.
        _check_file(path.stat())
        with open(path, "rb", opener=_without_waiting) as file:
            about = os.fstat(file.fileno())
            _check_file(about)
            return file.read(about.st_size)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from None
    except ValueError:  # the name has a zero byte
        raise ImageError("cannot be read (no file has such a name)") from None


def _without_waiting(name: str, flags: int) -> int:
    """Open a file without blocking. Opening a pipe would otherwise wait until somebody writes to
    it."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _check_file(about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise ImageError("not a regular file (a folder, pipe or device): name a picture's file")
    _check_bytes(about.st_size)


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise ImageError(f"{count:,} bytes, more than {MAX_BYTES:,}: scale it down")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height}, more than {max_pixels:,} pixels: scale it down")


def _check_scans(pixels: int, count: int) -> None:
    if pixels * count > MAX_SCANNED:
        raise ImageError(
            f"a JPEG of {pixels:,} pixels in {count:,} scans, more than {MAX_SCANNED:,} together: "
            "save it anew"
        )


def _no_memory(image: Image.Image) -> str:
    return f"{image.width} x {image.height}, more than this machine's memory holds: scale it down"


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape}, not (H, W, 3)")
    _check_pixels(array.shape[1], array.shape[0], max_pixels)
    if array.dtype.kind not in "ui" or array.min() < 0 or array.max() > 255:
        raise ImageError("an array whose values are not whole numbers from 0 to 255")
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block does not spoil the picture
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return grey of 16 or 32 bits per pixel as grey of 8 bits."""
    values = np.array(image, dtype=np.float32)
    top = values.max(initial=0, where=np.isfinite(values))
    if image.mode == "F" and top <= 1:
        values *= 255
    elif image.mode.startswith("I;16") or top > 255:
        values /= 257
    np.nan_to_num(values, copy=False, nan=0)
    return Image.fromarray(values.clip(0, 255, out=values).round(out=values).astype(np.uint8))


def scans(image: JpegImageFile, content: bytes) -> int:
    """Return the number of passes over the picture.

    Start-of-scan markers are counted as bytes, because entropy-coded data holds no marker. In a
    JPEG that is not progressive, a first scan of all components is the only one that libjpeg reads.
    """
    first = _first_scan(content)
    if not image.info.get("progressive") and content[first + 4 : first + 5] == bytes(
        [image.layers]
    ):
        return 1
    return max(1, content.count(b"\xff\xda", first))


def _first_scan(content: bytes) -> int:
    """Return the position of the first scan's marker.

    The segments before it are skipped, because they may hold another JPEG.
    """
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        if content[at + 1] == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at
