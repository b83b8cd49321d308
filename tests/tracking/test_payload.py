"""Pictures are drawn for a run's page, whatever the data set contains."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.tracking.payload import HEIGHT, WIDTH, draw


def saved(tmp_path, *size):
    Image.new("RGB", size, (10, 120, 30)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("size", [(20, 1200), (1, 60_000), (60_000, 1), (1, 1_000_000)])
def test_a_very_long_picture_is_drawn_in_a_size_that_every_format_holds(tmp_path, size):
    sheet = draw(saved(tmp_path, *size), "A cat", "One cat")
    assert sheet.width == WIDTH
    assert sheet.height <= HEIGHT + 44
    for form in ("PNG", "WEBP"):
        sheet.save(io.BytesIO(), form)


def test_texts_of_any_length_are_drawn_in_a_few_lines(tmp_path):
    sheet = draw(saved(tmp_path, 32, 32), "word " * 100_000, "x" * 1_000_000)
    assert sheet.size == (320, 18 * 24 + 8 + 320)


def test_a_photograph_is_drawn_as_wide_as_the_sheet(tmp_path):
    """Above the picture are two lines of 18 pixels and a margin of 8."""
    sheet = draw(saved(tmp_path, 640, 480), "A cat", "One cat")
    assert sheet.size == (320, 44 + 240)
    assert (np.asarray(sheet)[44:] == (10, 120, 30)).all()
