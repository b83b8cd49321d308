"""Tables in a temporary file: what is put in comes out, as from a dict that is read in order."""

import errno
import random
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.core.on_disk import OnDisk

# Letters of one to four bytes, signs that SQL might take for its own, and the end of a C string.
SIGNS = "aB0 '\"%_\0é\u0301犬\uffff😀"


@pytest.mark.parametrize("seed", range(5))
def test_a_table_holds_what_a_dict_holds_in_the_order_of_code_points(seed: int) -> None:
    rng = random.Random(seed)
    texts = ["".join(rng.choices(SIGNS, k=rng.randrange(4))) for _ in range(300)]
    rows = [(key, rng.choice([None, 3, -(2**62)]), rng.choice(texts)) for key in texts]
    table, expected = OnDisk(2), {key: values for key, *values in rows}
    table.put(rows)
    assert [*table] == [(key, *expected[key]) for key in sorted(expected)]
    assert len(table) == len(expected)
    assert all(table.get(key) == tuple(values) for key, values in expected.items())


def test_a_table_without_values_is_a_set() -> None:
    table = OnDisk()
    table.put(("a",) for _ in range(3))
    assert "a" in table
    assert "b" not in table
    assert table.get("a") == ()
    assert [*table] == [("a",)]


def open_files() -> dict[str, int]:
    """Return the bytes of each open file that has no name any more."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this loop itself
            if str(link.readlink()).endswith(" (deleted)"):
                found[str(link.readlink())] = link.stat().st_size
    return found


def test_a_table_larger_than_its_memory_is_in_a_file_without_a_name() -> None:
    table, before = OnDisk(1), open_files()
    table.put((f"{n:09}", "x" * 1000) for n in range(40_000))
    assert table.get("000000000") == table.get("000039999") == ("x" * 1000,)
    (file,) = open_files().keys() - before.keys()
    assert open_files()[file] > 2e7
    del table
    assert file not in open_files()


def test_a_full_disk_is_told_as_such() -> None:
    table = OnDisk()
    table._file.execute("PRAGMA max_page_count = 20")  # as if there were room for no more
    with pytest.raises(OSError, match="No space left on device") as error:
        table.put((f"{n:099}",) for n in range(9_999))
    assert error.value.errno == errno.ENOSPC


def test_an_error_of_another_kind_stays_as_it_is() -> None:
    with pytest.raises(sqlite3.ProgrammingError):
        OnDisk(1).put([("no value",)])
