"""Hold many image ids, in a temporary file. As Python strings in a dict, they take 200 bytes of
memory per image."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.data.array_on_disk import ArrayOnDisk, taken

# Number of ids that are Python strings at the same time.
MANY = 10_000


class ImageIds(Collection[str]):
    """Distinct ids, ordered by their code points, which is the order of their bytes in UTF-8."""

    def __init__(self, ids: Iterable[str]) -> None:
        """Store the ids.

        Args:
            ids: in order, each once.

        Raises:
            ValueError: the ids are not in order, or one is repeated.
        """
        self._ids = _in_order(_all_encoded(ids))

    @classmethod
    def of(cls, ids: NDArray[np.bytes_]) -> "ImageIds":
        """Return ids (N,) that are `encoded` already, in order.

        Raises:
            ValueError: as in `__init__`.
        """
        found = cls([])
        found._ids = _in_order(ids)
        return found

    @classmethod
    def placed(cls, ids: Iterable[str]) -> "tuple[ImageIds, NDArray[np.int64] | None]":
        """Return ids in any order, and the place among `ids` (N,) of each of the result; None if
        they are in order.

        Raises:
            ValueError: an id is repeated.
        """
        given = _all_encoded(ids)
        if (given[1:] > given[:-1]).all():
            return cls.of(given), None
        order = np.argsort(given)
        return cls.of(taken(given, order)), order

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, place: int) -> str:
        return str(self._ids[place].decode())

    def __iter__(self) -> Iterator[str]:
        return (text.decode() for text in self._ids.tolist())

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and bool(self.find([image_id])[0] >= 0)

    def find(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the places (N,) of N ids; -1 marks an id that is not here."""
        if not len(self):
            return np.full(len(image_ids), -1)
        wanted = encoded(image_ids)
        places = np.minimum(np.searchsorted(self._ids, wanted), len(self) - 1)
        return np.where(self._ids[places] == wanted, places, -1)

    def lacking(self, image_ids: Iterable[str]) -> list[str]:
        """Return the ids that are not here, each once."""
        parts = ((part, self.find(part)) for part in _parts(image_ids))
        return list(
            dict.fromkeys(part[n] for part, places in parts for n in np.flatnonzero(places < 0))
        )


def _parts(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while part := list(islice(rest, MANY)):
        yield part


def encoded(ids: Iterable[str]) -> NDArray[np.bytes_]:
    """Return texts (N,) in UTF-8, all as wide as the longest."""
    return np.array([text.encode() for text in ids], "S")


def _all_encoded(ids: Iterable[str]) -> NDArray[np.bytes_]:
    found = ArrayOnDisk()
    found.extend(encoded([]))
    for part in _parts(ids):
        found.extend(encoded(part))
    return found.array()


def _in_order(ids: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    if (ids[1:] <= ids[:-1]).any():
        raise ValueError("image ids that are not in order, each once")
    return ids
