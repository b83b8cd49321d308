"""Pictures from strangers: small ones are decoded as usual, large ones reduced or refused.

No picture is decoded to find out which applies.
"""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.captioner.served import FORMATS, PIXELS, SCANNED, look_at
from pipeline.images.reading import ImageError, read_image

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    content = BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_that_is_small_enough_is_decoded_as_from_a_file(form: str) -> None:
    content = encoded(NOISE, form)
    assert np.array_equal(look_at(content).decode(), read_image(content))


def test_a_small_file_of_many_black_pixels_is_refused_by_its_header() -> None:
    content = encoded(Image.new("L", (7990, 7990)), "PNG")
    assert len(content) < 250_000
    with pytest.raises(ImageError) as refusal:
        look_at(content)
    assert str(refusal.value) == (
        "7990 x 7990, more than 12,000,000 pixels: send it smaller, or as a JPEG"
    )


@pytest.mark.parametrize(("width", "reduced"), [(4000, 1), (4100, 2), (8000, 2), (9000, 4)])
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(width: int, reduced: int) -> None:
    found = look_at(encoded(Image.new("RGB", (width, 3000 * width // 4000)), "JPEG"))
    assert found.reduced == reduced
    decoded = found.decode()
    assert decoded.width == -(-width // reduced)
    assert decoded.width * decoded.height <= PIXELS


def test_a_reduced_jpeg_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    content = encoded(Image.new("RGB", (6000, 3000)), "JPEG", exif=exif)
    assert look_at(content).decode().size == (1500, 3000)


def with_scans(content: bytes, times: int) -> bytes:
    """Return the progressive JPEG `content` with its last scan repeated `times` times."""
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * times + content[-2:]


def test_a_progressive_jpeg_of_hundreds_of_scans_is_refused() -> None:
    plain = encoded(Image.new("RGB", (2000, 1000)), "JPEG", progressive=True)
    scans = plain.count(b"\xff\xda")
    assert look_at(plain).cost == pytest.approx(scans * 2_000_000, rel=0.05)
    many = with_scans(plain, 200)
    assert read_image(many).size == (2000, 1000)  # libjpeg reads all of them
    with pytest.raises(
        ImageError,
        match=r"^2000 x 1000 in \d+ scans takes too much work to decode: send a smaller picture$",
    ):
        look_at(many)
    assert 2_000_000 * (scans + 199) > SCANNED


def test_a_thumbnail_inside_a_jpeg_is_no_scan_of_it() -> None:
    thumbnail = encoded(NOISE, "JPEG", progressive=True)
    exif = b"Exif\0\0" + thumbnail
    inside = encoded(NOISE, "JPEG", exif=exif)
    assert thumbnail in inside
    assert look_at(inside).cost == look_at(encoded(NOISE, "JPEG")).cost


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no picture", "not a picture (JPEG, PNG, WEBP, GIF, BMP)"),
        (encoded(NOISE, "JPEG2000"), "not a picture (JPEG, PNG, WEBP, GIF, BMP)"),
        (encoded(NOISE, "EPS"), "not a picture (JPEG, PNG, WEBP, GIF, BMP)"),
    ],
    ids=["empty", "text", "JPEG 2000", "EPS"],
)
def test_what_is_not_served_says_what_is(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as refusal:
        look_at(content)
    assert str(refusal.value) == reason


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_cut_jpeg_is_an_image_error_at_every_length(cut: int) -> None:
    content = encoded(NOISE, "JPEG", progressive=True)[:cut]
    with pytest.raises(ImageError):
        look_at(content).decode()
