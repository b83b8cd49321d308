"""Arrays in a temporary file: what is added comes out, as np.concatenate gives it."""

import errno
import subprocess
import sys

import numpy as np
import pytest

from pipeline.data import array_on_disk
from pipeline.data.array_on_disk import ArrayOnDisk, taken
from tests.core.test_on_disk import open_files

WORDS = np.array([b"a", b""]), np.array([b"longer", b"b"]), np.array([], "S2"), np.array([b"cd"])
COUNTS = np.arange(3, dtype=np.uint8), np.arange(300, 400, dtype=np.int16)


def grown(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    found = ArrayOnDisk()
    for part in parts:
        found.extend(part)
    return found.array()


@pytest.mark.parametrize("parts", [WORDS, COUNTS, WORDS[:1], WORDS[2:3], WORDS[:1] * 3])
def test_an_array_that_grew_is_what_concatenate_returns(parts: tuple[np.ndarray, ...]) -> None:
    found, expected = grown(parts), np.concatenate(parts)
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


def test_an_array_to_which_nothing_was_added_is_empty() -> None:
    assert len(ArrayOnDisk().array()) == 0


def test_values_in_another_order_are_what_numpy_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_on_disk, "MANY", 3)
    values, places = grown(WORDS), np.array([3, 0, 0, 4, 1, 2, 3])
    assert taken(values, places).tolist() == values[places].tolist()
    assert taken(values, places[:0]).dtype == values.dtype
    assert len(taken(values, places[:0])) == 0


def test_the_file_has_no_name_and_goes_with_the_last_array() -> None:
    before = open_files()
    array = grown(COUNTS)
    assert len(open_files()) == len(before) + 1
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    del array
    assert open_files() == before


def test_memory_does_not_grow_with_the_values() -> None:
    code = """
import numpy as np
from pipeline.data.array_on_disk import ArrayOnDisk
def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
part, found = np.arange(100_000), ArrayOnDisk()
found.extend(part)
before = held()
for _ in range(99):
    found.extend(part)
assert found.array().sum() == 100 * part.sum()
print(held() - before)
"""
    grew = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(grew.stdout) < 8_000  # of 80,000


def test_a_full_disk_is_told_as_such() -> None:
    code = """
import resource, signal
import numpy as np
from pipeline.data.array_on_disk import ArrayOnDisk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
found = ArrayOnDisk()
try:
    for _ in range(100):
        found.extend(np.arange(1000))
    found.array()
except OSError as error:
    print(error.errno)
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(told.stdout) == errno.EFBIG
