"""An array in several files is read like the whole array."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.features.parts import Parts, part_file

WHOLE = np.arange(9 * 2 * 3, dtype=np.float16).reshape(9, 2, 3)


def written(folder: Path, *sizes: int) -> Path:
    start = 0
    for number, size in enumerate(sizes):
        np.save(folder / part_file("grid", number), WHOLE[start : start + size])
        start += size
    return folder


@pytest.mark.parametrize("sizes", [(9,), (4, 5), (1, 7, 1), (1,) * 9])
@pytest.mark.parametrize("rows", [[], [0], [8, 0, 3, 3, 4], range(9), range(8, -1, -1)])
def test_rows_of_parts_are_those_of_the_whole(
    tmp_path: Path, sizes: tuple[int, ...], rows: list[int]
) -> None:
    found, wanted = Parts(written(tmp_path, *sizes), "grid"), np.array(rows, np.int64)
    assert np.array_equal(found[wanted], WHOLE[wanted])
    assert (len(found), found.shape, found.ndim) == (9, (9, 2, 3), 3)
    assert (found.dtype, found[wanted].dtype, found.nbytes) == (np.float16, np.float16, 108)


def test_more_parts_than_five_digits_of_them_tell_stay_in_order(tmp_path: Path) -> None:
    assert part_file("grid", 7) == "grid-00007.npy"
    assert part_file("grid_scale", 123_456) == "grid_scale-123456.npy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "grid-00001.npy").unlink(), r"grid-00001\.npy is not a readable array: FileNot"),
        (lambda f: (f / "grid-00002.npy").write_bytes(b""), r"grid-00002\.npy is not a readable array"),
        (
            lambda f: np.save(f / "grid-00001.npy", WHOLE[:5, :1]),
            r"grid-00001\.npy holds float16 \(5, 1, 3\), grid-00000\.npy holds float16 \(2, 2, 3\)",
        ),
        (
            lambda f: np.save(f / "grid-00001.npy", WHOLE[:5].astype(np.float32)),
            r"grid-00001\.npy holds float32 \(5, 2, 3\), grid-00000\.npy holds float16",
        ),
        (lambda f: np.save(f / "grid-00000.npy", np.float16(1)), r"grid-00000\.npy holds float16 \(\)"),
    ],
)  # fmt: skip
def test_parts_that_make_up_no_array_are_one_line(tmp_path, change, message):  # type: ignore[no-untyped-def]
    change(written(tmp_path, 2, 5, 2))
    with pytest.raises(UserError, match=message):
        Parts(tmp_path, "grid")


def test_no_part_at_all_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"grid-00000\.npy is not a readable array: FileNotFound"):
        Parts(tmp_path, "grid")
