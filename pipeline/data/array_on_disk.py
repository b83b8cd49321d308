"""An array in a temporary file, for values by the million: memory does not grow with their
number."""

from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Number of values that are in memory while they are put in another order.
MANY = 65_536


class ArrayOnDisk:
    """An array (N,) that grows at its end. Its file has no name and vanishes with the process.

    Example:
        >>> found = ArrayOnDisk()
        >>> found.extend(np.array([b"a", b"b"]))
        >>> found.extend(np.array([b"longer"]))
        >>> found.array()
        array([b'a', b'b', b'longer'], dtype='|S6')
    """

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  it is closed with the object
        self._parts: list[tuple[Any, int]] = []

    def extend(self, values: "NDArray[Any]") -> None:
        """Add values (n,) at the end.

        Raises:
            OSError: the disk of the temporary file is full.
        """
        self._file.write(values.tobytes())
        self._parts.append((values.dtype, values.nbytes))

    def array(self) -> "NDArray[Any]":
        """Return all values (N,), which cannot be changed, mapped into memory.

        Their type is the one of `np.concatenate`: bytes are as wide as the longest. An array to
        which nothing was added is one of floats.
        """
        import numpy as np

        kinds = {kind for kind, _ in self._parts}
        if len(kinds) > 1:
            return self._converted(np.result_type(*kinds)).array()
        self._file.flush()
        kind = kinds.pop() if kinds else np.dtype(float)
        if not self._file.tell():
            return np.empty(0, kind)
        # The map outlives the file's name and its descriptor.
        return np.memmap(self._file, kind, "r").view(np.ndarray)

    def _converted(self, kind: Any) -> "ArrayOnDisk":
        """Return the same values in another type."""
        import numpy as np

        found = ArrayOnDisk()
        self._file.seek(0)
        for own, size in self._parts:
            found.extend(np.frombuffer(self._file.read(size), own).astype(kind))
        return found


def taken(values: "NDArray[Any]", places: "NDArray[Any]") -> "NDArray[Any]":
    """Return values[places] in a temporary file, mapped into memory.

    Args:
        values: (N,).
        places: (M,) numbers of values.

    Raises:
        OSError: the disk of the temporary file is full.
    """
    found = ArrayOnDisk()
    found.extend(values[:0])
    for start in range(0, len(places), MANY):
        found.extend(values[places[start : start + MANY]])
    return found.array()
