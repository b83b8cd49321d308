"""CAPTIONLAB_WORKERS sets the number of threads that decode images."""

import os
from pathlib import Path

import pytest

from pipeline.cleaning.image_check import look_at_images
from pipeline.core.errors import UserError
from pipeline.core.machine import workers
from tests.pictures import put_pictures


@pytest.mark.parametrize(("text", "threads"), [("1", 1), ("12", 12), ("", os.cpu_count())])
def test_as_many_threads_decode_images_as_are_named_or_one_per_core(
    monkeypatch: pytest.MonkeyPatch, text: str, threads: int
) -> None:
    monkeypatch.setenv("CAPTIONLAB_WORKERS", text)
    assert workers() == threads


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "²", "two", " "])
def test_no_other_number_of_threads_is_taken_wherever_images_are_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setenv("CAPTIONLAB_WORKERS", text)
    shards = put_pictures(tmp_path, {"a": b""})
    said = f"CAPTIONLAB_WORKERS={text}: expected a whole number of threads, 1 or more"
    for decode in (workers, lambda: look_at_images(shards)):
        with pytest.raises(UserError) as error:
            decode()
        assert str(error.value) == said
