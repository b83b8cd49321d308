"""Large pictures are decoded in a separate process.

The process has a low priority and limits, and is replaced when it ends.
"""

import os
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.captioner.apart import MEMORY, PRIORITY, SECONDS, DecodedApart
from pipeline.captioner.served import look_at
from pipeline.images.reading import ImageError

resource = pytest.importorskip("resource")
PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def jpeg() -> bytes:
    content = BytesIO()
    Image.fromarray(PICTURE).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def apart() -> Iterator[DecodedApart]:
    found = DecodedApart(1)
    yield found
    if process := found._idle.get():
        process.end()


def test_the_picture_is_what_a_thread_would_decode_and_errors_are_the_same(
    apart: DecodedApart,
) -> None:
    picture = look_at(jpeg())
    assert np.array_equal(apart(picture), picture.decode())
    cut = look_at(jpeg()[:1000])
    with pytest.raises(ImageError, match=r"^truncated$"):
        cut.decode()
    with pytest.raises(ImageError, match=r"^truncated$"):
        apart(cut)
    assert np.array_equal(apart(picture), picture.decode())


def pid_of(apart: DecodedApart) -> int:
    process = apart._idle.get()
    apart._idle.put(process)
    assert process
    return process.process.pid


def test_it_has_a_low_priority_and_limits_of_memory_and_time(apart: DecodedApart) -> None:
    apart(look_at(jpeg()))
    pid = pid_of(apart)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + PRIORITY)
    assert resource.prlimit(pid, resource.RLIMIT_AS) == (MEMORY, MEMORY)
    assert SECONDS <= resource.prlimit(pid, resource.RLIMIT_CPU)[0] <= SECONDS + 10


def test_where_it_ends_one_picture_has_an_error_and_the_next_is_decoded(
    apart: DecodedApart,
) -> None:
    apart(look_at(jpeg()))
    pid = pid_of(apart)
    os.kill(pid, 9)
    with pytest.raises(ImageError, match=r"^it took too much time or memory to decode$"):
        apart(look_at(jpeg()))
    assert np.array_equal(apart(look_at(jpeg())), look_at(jpeg()).decode())
    assert pid_of(apart) != pid
