"""Pictures sent by strangers: a picture's header tells how much work it makes, before it is
decoded.

A picture of up to `PIXELS` is decoded as by `read_image`, so its caption is that of `captionlab
caption`. A larger JPEG is decoded at a half, a quarter or an eighth of its size, which libjpeg does
with a fraction of the work. A larger picture of another format is refused.

The cost of a JPEG is its pixels times its scans. A progressive JPEG of a few kB may ask for
hundreds of passes over all its pixels.
"""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.core.errors import one_line
from pipeline.images.reading import MAX_PIXELS, ImageError, read_image, scans

# Maximum number of pixels that are decoded of one picture. A screen of 3840 x 2160 has 8.3 million.
PIXELS = 12_000_000
# Maximum of pixels times scans of a JPEG. A progressive photograph of 12 million pixels has 10
# scans.
SCANNED = 150_000_000
# Formats whose cost per pixel is known and small. JPEG 2000 costs fifteen times as much, EPS starts
# another program, and TIFF has tiles of any size.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Number of pixels whose decoding takes as long as everything else about a picture.
OVERHEAD = 50_000


@dataclass(frozen=True)
class ServedPicture:
    """A picture. Only its header has been read so far."""

    content: bytes
    cost: float
    "Number of pixels that decoding has to touch, plus `OVERHEAD`."
    reduced: int = 1
    "Divisor of the width at which a JPEG is decoded: 1, 2, 4 or 8."

    def decode(self) -> Image.Image:
        """Return the picture as upright RGB. Raise an ImageError if it is truncated or broken."""
        if self.reduced == 1:
            return read_image(self.content, PIXELS)
        image = _opened(self.content)
        image.draft("RGB", (image.width // self.reduced, image.height // self.reduced))
        return read_image(image)


def look_at(content: bytes) -> ServedPicture:
    """Read a picture's header.

    Raises:
        ImageError: it is not a picture, its format is not served, or it takes too much work.
    """
    image = _opened(content)
    pixels, size = image.width * image.height, f"{image.width} x {image.height}"
    if not isinstance(image, JpegImageFile):
        if pixels > PIXELS:
            raise ImageError(f"{size}, more than {PIXELS:,} pixels: send it smaller, or as a JPEG")
        return ServedPicture(content, OVERHEAD + pixels)
    scanned = pixels * scans(image, content)
    if pixels > MAX_PIXELS or scanned > SCANNED:
        raise ImageError(
            f"{size} in {scanned // max(1, pixels)} scans takes too much "
            f"work to decode: send a smaller picture"
        )
    reduced = next(by for by in (1, 2, 4, 8) if pixels <= PIXELS * by**2)
    return ServedPicture(content, OVERHEAD + scanned, reduced)


def _opened(content: bytes) -> Image.Image:
    if not content:
        raise ImageError("empty file")
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageError(f"not a picture ({', '.join(FORMATS)})") from None
    except Exception as error:  # a broken header makes Pillow's readers fail in many ways
        raise ImageError(f"broken ({one_line(error)})") from None
