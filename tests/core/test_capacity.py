"""How much memory and disk a machine has left, and the message about what does not fit."""

from pathlib import Path

import psutil
import pytest

from pipeline.core import capacity
from pipeline.core.capacity import amount, disk_problem, free_memory, memory_problem


def test_a_containers_limit_counts_less_what_it_holds_but_for_its_cache_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"memory.max": "1000", "memory.current": "900"}
    files["memory.stat"] = "anon 200\ninactive_file 600\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    group = (str(tmp_path), "memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(capacity, "CGROUPS", (group, ("nowhere", "a", "b", "c")))
    assert free_memory("cpu") == 1000 - 900 + 600
    (tmp_path / "memory.max").write_text("max")
    assert 0.5 < free_memory("cpu") / psutil.virtual_memory().available < 2


@pytest.mark.parametrize("free", [0, 1, 49, 50, 51, 99, 100])
def test_the_largest_value_that_fits_is_named(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda device: free)
    found = memory_problem("it", lambda asked: asked, 100, "key", "cpu")
    if free == 100:
        assert found is None
    elif free:
        assert found == (
            f"it needs 100 B of memory at least, this machine's free memory is {amount(free)}: "
            f"key {free} would fit"
        )
    else:
        assert found
        assert found.endswith("key 1 does not fit either, take a smaller model")


def test_a_disk_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert disk_problem("it", 1, tmp_path / "a/b", "tidy up") is None
    found = disk_problem("it", 9 * 10**14, tmp_path / "a/b", "tidy up")
    assert found
    assert found.startswith("it takes 900 TB, the disk of ")
    assert found.endswith(" left: tidy up")


def test_amounts_have_three_digits() -> None:
    found = [amount(n) for n in (0, 999, 1_000, 16_700_000_000, 3_210_000_000_000)]
    assert found == ["0", "999 B", "1.00 kB", "16.7 GB", "3.21 TB"]
