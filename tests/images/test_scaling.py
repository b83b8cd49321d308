"""Pictures of any shape are scaled in bounded memory, and those of usual shapes in one step."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling

from pipeline.images.reading import MAX_RATIO
from pipeline.images.scaling import MEAN_COLOUR, middle, square, within


def noise(width, height):
    values = np.random.default_rng(width * 10_007 + height)
    return Image.fromarray(values.integers(0, 256, (height, width, 3), dtype=np.uint8))


def whole_then_cut(image, side, resampling):
    """Return what `crop` means: scale the shorter side to `side`, then take the centre."""
    scale = side / min(image.size)
    size = tuple(max(side, round(length * scale)) for length in image.size)
    left, top = ((length - side) // 2 for length in size)
    return image.resize(size, resampling).crop((left, top, left + side, top + side))


SHAPES = [(1, 1), (640, 480), (427, 640), (33, 500), (500, 33), (10, 160), (160, 10), (3, 47)]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("resampling", [Resampling.BILINEAR, Resampling.BICUBIC])
def test_pictures_up_to_the_ratio_are_scaled_in_one_step(size, resampling):
    assert max(size) <= MAX_RATIO * min(size)
    image = noise(*size)
    expected = whole_then_cut(image, 64, resampling)
    assert square(image, 64, "crop", resampling).tobytes() == expected.tobytes()
    expected = image.resize((64, 64), resampling)
    assert square(image, 64, "squash", resampling).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(20, 1200), (1200, 20), (7, 400)])
def test_a_longer_picture_looks_as_if_all_of_it_had_been_scaled(size):
    """The places of its rows and columns in the source may differ by half a pixel."""
    smooth = noise(*(max(1, length // 10) for length in size)).resize(size, Resampling.BICUBIC)
    ours = np.asarray(square(smooth, 32, "crop", Resampling.BICUBIC), int)
    theirs = np.asarray(whole_then_cut(smooth, 32, Resampling.BICUBIC), int)
    assert abs(ours - theirs).max() <= 12
    squashed = square(smooth, 32, "squash", Resampling.BICUBIC)
    assert squashed.tobytes() == smooth.resize((32, 32), Resampling.BICUBIC).tobytes()


def test_a_side_of_more_pixels_is_averaged_first_and_looks_the_same():
    smooth = noise(1, 50).resize((1, 20_000), Resampling.BICUBIC)
    ours = np.asarray(square(smooth, 32, "squash", Resampling.BICUBIC), int)
    theirs = np.asarray(smooth.resize((32, 32), Resampling.BICUBIC), int)
    assert abs(ours - theirs).max() <= 1


def test_the_middle_of_a_long_picture_is_sixteen_times_as_long_as_it_is_wide():
    assert MAX_RATIO == 16
    assert middle(noise(3, 100)).tobytes() == noise(3, 100).crop((0, 26, 3, 74)).tobytes()
    assert middle(noise(100, 3)).tobytes() == noise(100, 3).crop((26, 0, 74, 3)).tobytes()
    image = noise(3, 48)
    assert middle(image) is image


# Red, green, blue and white, then black, grey, yellow and brown.
FOUR_BY_TWO = [
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]],
    [[0, 0, 0], [128, 128, 128], [255, 255, 0], [90, 60, 30]],
]


def test_a_padded_picture_lies_in_the_middle_of_a_square_of_the_mean_colour() -> None:
    wide = Image.fromarray(np.array(FOUR_BY_TWO, np.uint8))
    fill = [[122, 116, 104]] * 4
    found = np.asarray(square(wide, 4, "pad", Resampling.BICUBIC))
    assert found.tolist() == [fill, *FOUR_BY_TWO, fill]
    high = wide.transpose(Image.Transpose.TRANSPOSE)
    found = np.asarray(square(high, 4, "pad", Resampling.BICUBIC))
    assert found.transpose(1, 0, 2).tolist() == [fill, *FOUR_BY_TWO, fill]


def test_what_cannot_be_filled_evenly_has_one_pixel_more_after_the_picture() -> None:
    red = Image.new("RGB", (4, 1), (255, 0, 0))
    rows = np.asarray(square(red, 4, "pad", Resampling.BILINEAR))[:, 0].tolist()
    assert rows == [[122, 116, 104], [255, 0, 0], [122, 116, 104], [122, 116, 104]]


def test_a_padded_picture_is_scaled_by_its_longer_side() -> None:
    """8 x 4 pixels, black and white halves, become 4 x 2: every pixel is the mean of four."""
    halves = np.zeros((4, 8, 3), np.uint8)
    halves[:, 4:] = 255
    found = np.asarray(square(Image.fromarray(halves), 4, "pad", Resampling.BOX))[..., 0]
    fill = [122] * 4
    assert found.tolist() == [fill, [0, 0, 255, 255], [0, 0, 255, 255], fill]


@pytest.mark.parametrize("size", [(32, 20), (7, 32), (32, 32), (31, 32)])
def test_a_picture_as_long_as_the_square_is_padded_as_transformers_does_it_for_llava(size) -> None:
    from transformers.models.llava.image_processing_llava import LlavaImageProcessor

    image = noise(*size)
    processor = LlavaImageProcessor()
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    colour = tuple(int(mean * 255) for mean in processor.image_mean)
    theirs = processor.pad_to_square(planes, colour).permute(1, 2, 0).numpy()
    assert colour == MEAN_COLOUR
    assert np.array_equal(np.asarray(square(image, 32, "pad", Resampling.BICUBIC)), theirs)


def test_a_square_picture_is_padded_by_nothing() -> None:
    image = noise(90, 90)
    squashed = square(image, 64, "squash", Resampling.BICUBIC)
    assert square(image, 64, "pad", Resampling.BICUBIC).tobytes() == squashed.tobytes()


@pytest.mark.parametrize("size", ["1, 60_000", "1, 1_000_000", "1, 64_000_000"])
def test_a_picture_one_pixel_wide_is_padded_within_a_gigabyte(size) -> None:
    code = (
        "import resource\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "from pipeline.images.scaling import square\n"
        "resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
        f"image = Image.new('RGB', ({size}), (10, 20, 30))\n"
        "scaled = np.asarray(square(image, 224, 'pad', Image.Resampling.BICUBIC))\n"
        "own = (scaled == (10, 20, 30)).all(2)\n"
        "fill = (scaled == (122, 116, 104)).all(2)\n"
        "print(scaled.shape, own[:, 111].all(), own.sum(), fill.sum())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"(224, 224, 3) True 224 {224 * 223}\n", done.stderr


@pytest.mark.parametrize("way", ["crop", "squash"])
@pytest.mark.parametrize("size", ["1, 1_000_000", "1, 60_000", "1, 64_000_000", "64_000_000, 1"])
def test_a_picture_one_pixel_wide_is_scaled_within_a_gigabyte(way, size):
    code = (
        "import resource\n"
        "from PIL import Image\n"
        "from pipeline.images.scaling import square\n"
        "resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
        f"image = Image.new('RGB', ({size}), (10, 20, 30))\n"
        f"scaled = square(image, 224, '{way}', Image.Resampling.BICUBIC)\n"
        "print(scaled.size, scaled.getextrema())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(224, 224) ((10, 10), (20, 20), (30, 30))\n", done.stderr


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((640, 480), (320, 1280), (320, 240)),
        ((480, 640), (320, 1280), (320, 427)),
        ((100, 80), (320, 1280), (320, 256)),
        ((20, 1200), (320, 1280), (21, 1280)),
        ((1, 1_000_000), (320, 1280), (1, 1280)),
        ((1_000_000, 1), (320, 1280), (320, 1)),
        ((1, 4), (320, 1280), (320, 1280)),
    ],
)
def test_a_size_within_a_box_keeps_its_shape(size, box, expected):
    assert within(size, box) == expected
