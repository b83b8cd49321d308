"""Every file becomes an RGB picture or one short reason why not."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.images.reading import ImageError, read_image


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png_header(width, height):
    """Return a PNG that claims this size but holds hardly any data."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def test_a_picture_is_read_from_bytes_and_from_a_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(NOISE))
    for source in (encoded(NOISE), tmp_path / "a.png"):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (80, 60))
        assert image.tobytes() == NOISE.tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not a picture"),
        (encoded(NOISE, "JPEG")[:2000], "truncated"),
        (encoded(NOISE)[:4000], "truncated"),
        (encoded(NOISE, "GIF")[:3000], "truncated"),
        (png_header(200, 200), "truncated"),
        (png_header(10_000, 8_000), "10000 x 8000, more than 64,000,000 pixels: scale it down"),
        (png_header(40_000, 40_000), "more than 64,000,000 pixels: scale it down"),
    ],
)
def test_what_cannot_be_read_has_a_short_reason(data, reason):
    with pytest.raises(ImageError) as error:
        read_image(data)
    assert str(error.value) == reason
    assert isinstance(error.value, UserError)


def test_a_missing_file_has_a_short_reason(tmp_path):
    with pytest.raises(ImageError, match=r"^cannot be read \(No such file or directory\)$"):
        read_image(tmp_path / "a.png")


def test_a_flipped_byte_breaks_one_picture_only():
    data = bytearray(encoded(NOISE))
    data[1000] ^= 255
    with pytest.raises(ImageError, match="broken"):
        read_image(bytes(data))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_picture_is_refused_without_memory():
    tracemalloc.start()
    for side in (8_001, 10_000, 40_000):
        with pytest.raises(ImageError, match=r"more than 64,000,000 pixels"):
            read_image(png_header(side, side))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_warning_of_the_decoder_is_not_printed(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(10_000, 10_000))
    (tmp_path / "b.jpg").write_bytes(
        encoded(NOISE, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    )
    code = (
        "import sys, pathlib, pipeline.images.reading as i\n"
        "try: i.read_image(pathlib.Path(sys.argv[1]))\n"
        "except i.ImageError: print(i.read_image(pathlib.Path(sys.argv[2])).size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.png", tmp_path / "b.jpg"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("(80, 60)\n", "")


def test_the_limit_of_pixels_can_be_set():
    assert read_image(encoded(NOISE), max_pixels=4800).size == (80, 60)
    with pytest.raises(ImageError, match="80 x 60, more than 4,799 pixels"):
        read_image(encoded(NOISE), max_pixels=4799)


def test_the_orientation_of_the_camera_is_applied():
    picture = Image.new("RGB", (20, 10), "blue")
    picture.paste("red", (0, 0, 10, 10))  # the left half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    image = read_image(encoded(picture, exif=exif))
    assert image.size == (10, 20)
    assert (image.getpixel((5, 2)), image.getpixel((5, 17))) == ((255, 0, 0), (0, 0, 255))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_lose_the_picture():
    data = encoded(NOISE, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_image(data).size == (80, 60)


RED = Image.new("RGB", (4, 4), (255, 0, 0))


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (Image.new("L", (4, 4), 100), "PNG", (100, 100, 100)),
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
        (RED.convert("P"), "PNG", (255, 0, 0)),
        (RED.convert("P"), "GIF", (255, 0, 0)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "PNG", (204, 204, 204)),
        (Image.new("LA", (4, 4), (0, 0)), "PNG", (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 25700, np.uint16)), "PNG", (100, 100, 100)),
        (Image.fromarray(np.full((4, 4), 100, np.uint16)), "PNG", (0, 0, 0)),
        (Image.fromarray(np.full((4, 4), 65535, np.int32)), "TIFF", (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 100.0, np.float32)), "TIFF", (100, 100, 100)),
        (Image.fromarray(np.full((4, 4), 0.6, np.float32)), "TIFF", (153, 153, 153)),
        (Image.fromarray(np.full((4, 4), 1.0, np.float32)), "TIFF", (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 25700.0, np.float32)), "TIFF", (100, 100, 100)),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF", (0, 0, 0)),
        (Image.fromarray(np.full((4, 4), np.inf, np.float32)), "TIFF", (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), -np.inf, np.float32)), "TIFF", (0, 0, 0)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(image, form, expected):
    out = read_image(encoded(image, form))
    assert (out.mode, out.getpixel((1, 1))) == ("RGB", expected)


def test_a_palette_with_a_transparent_entry_is_put_on_white():
    image = RED.convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    assert read_image(encoded(image, transparency=image.info["transparency"])).getpixel((1, 1)) == (
        255,
        255,
        255,
    )


def test_the_first_frame_of_an_animation_is_read():
    data = encoded(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert read_image(data).getpixel((1, 1)) == (255, 0, 0)


def test_threads_do_not_disturb_each_other():
    shades = [Image.new("RGB", (64, 64), (n, n, n)) for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda image: read_image(encoded(image)).getpixel((3, 3)), shades))
    assert read == [(n, n, n) for n in range(64)]


@pytest.mark.filterwarnings("error")
def test_a_pixel_of_a_float_picture_that_is_no_number_is_black_and_the_others_are_kept():
    values = np.full((4, 4), 0.4, np.float32)
    values[0, 0] = np.nan
    image = read_image(encoded(Image.fromarray(values), "TIFF"))
    assert (image.getpixel((0, 0)), image.getpixel((1, 1))) == ((0, 0, 0), (102, 102, 102))


@pytest.fixture
def impostors(tmp_path):
    """Files that only have the name of a picture, and the reason why each is refused."""
    no_file = "not a regular file (a folder, pipe or device): name a picture's file"
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(40 * 10**9)
    reasons = dict.fromkeys(("pipe.jpg", "endless.png", "folder.png"), no_file)
    reasons["sparse.png"] = "40,000,000,000 bytes, more than 256,000,000: scale it down"
    return {tmp_path / name: reason for name, reason in reasons.items()}


@pytest.mark.timeout(30)
def test_what_only_has_the_name_of_a_picture_is_refused_before_it_is_read(impostors):
    tracemalloc.start()
    for path, reason in impostors.items():
        with pytest.raises(ImageError) as error:
            read_image(path)
        assert str(error.value) == reason
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.timeout(30)
def test_a_pipe_that_takes_the_place_of_a_picture_is_not_waited_for(tmp_path, monkeypatch):
    """The pipe takes the place of the picture after the file is checked and before it is opened."""
    (tmp_path / "a.png").write_bytes(encoded(NOISE))
    before = (tmp_path / "a.png").stat()
    os.mkfifo(tmp_path / "b.png")
    monkeypatch.setattr(type(tmp_path), "stat", lambda self, **_: before)
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "b.png")


def test_a_name_that_no_file_can_have_has_a_short_reason(tmp_path):
    with pytest.raises(ImageError, match="no file has such a name"):
        read_image(tmp_path / "a\0.png")
    with pytest.raises(ImageError, match="File name too long"):
        read_image(tmp_path / ("a" * 300 + ".png"))


def test_bytes_have_the_limit_of_files(monkeypatch):
    monkeypatch.setattr("pipeline.images.reading.MAX_BYTES", 1000)
    with pytest.raises(ImageError, match=r"bytes, more than 1,000: scale it down$"):
        read_image(encoded(NOISE))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_opened_picture_and_an_array_have_the_same_limits():
    with pytest.raises(ImageError, match="10000 x 8000, more than"):
        read_image(Image.open(io.BytesIO(png_header(10_000, 8_000))))
    with pytest.raises(ImageError, match="80 x 60, more than 4,799 pixels"):
        read_image(np.asarray(NOISE), max_pixels=4799)
    with pytest.raises(ImageError, match="truncated"):
        read_image(Image.open(io.BytesIO(png_header(200, 200))))


def test_an_opened_picture_and_an_array_are_the_picture_of_their_file():
    for source in (Image.open(io.BytesIO(encoded(NOISE))), NOISE, np.asarray(NOISE)):
        assert read_image(source).tobytes() == NOISE.tobytes()


def test_no_other_program_is_started_for_a_picture():
    """Pillow would start Ghostscript for PostScript, whatever the file is called."""
    with pytest.raises(ImageError, match=r"^EPS, which this program cannot draw"):
        read_image(encoded(NOISE, "EPS"))


def test_a_picture_that_memory_does_not_hold_is_a_reason_not_a_traceback(monkeypatch):
    def full(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(ImageError, match="80 x 60, more than this machine's memory holds"):
        read_image(encoded(NOISE))


def test_a_jpeg_that_asks_for_many_passes_over_its_pixels_is_refused_before_it_is_decoded():
    plain = encoded(Image.new("RGB", (3000, 3000)), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    content = plain[:last] + plain[last:-2] * 150 + plain[-2:]
    assert len(content) < 100_000
    assert read_image(plain).size == (3000, 3000)
    count = content.count(b"\xff\xda")
    with pytest.raises(
        ImageError,
        match=rf"^a JPEG of 9,000,000 pixels in {count} scans, more than 1,000,000,000 together",
    ):
        read_image(content)
