"""Read arrays of one kind from several files, one for each shard of pictures, as one array."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import UserError, brief, let_through
from pipeline.data.checked import RESTORE


def part_file(name: str, number: int) -> str:
    """Return a file name such as `grid-00007.npy`."""
    return f"{name}-{number:05}.npy"


class Parts:
    """The rows of <name>-00000.npy, <name>-00001.npy, ... in a folder, one file after another, by
    memory map.

    Raises:
        UserError: there is no such file, one is missing or damaged, or they do not fit each other.
    """

    def __init__(self, folder: Path, name: str) -> None:
        count = max(1, len(list(folder.glob(f"{name}-[0-9]*.npy"))))
        self.arrays = [_map(folder / part_file(name, number)) for number in range(count)]
        first = self.arrays[0]
        for number, array in enumerate(self.arrays):
            if array.ndim < 1 or (array.shape[1:], array.dtype) != (first.shape[1:], first.dtype):
                raise UserError(
                    f"{folder / part_file(name, number)} holds {array.dtype} {array.shape}, "
                    f"{part_file(name, 0)} holds {first.dtype} {first.shape}: {RESTORE}"
                )
        self._ends = np.cumsum([len(array) for array in self.arrays])
        self.dtype, self.shape = first.dtype, (len(self), *first.shape[1:])
        self.ndim, self.nbytes = first.ndim, sum(array.nbytes for array in self.arrays)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: NDArray[np.int64]) -> np.ndarray:
        """Return the rows with these numbers (R,), counted over all parts, in this order."""
        numbers = np.searchsorted(self._ends, rows, side="right")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number in np.unique(numbers):
            array, here = self.arrays[number], numbers == number
            found[here] = array[rows[here] - (self._ends[number] - len(array))]
        return found


def _map(file: Path) -> np.memmap:
    try:
        array: np.memmap = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        let_through(error)
        raise UserError(f"{file} is not a readable array: {brief(error)}: {RESTORE}") from None
    return array
