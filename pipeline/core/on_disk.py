"""Values by key in a temporary file, for keys by the million: memory does not grow with their
number, as it does with a dict (200 bytes and more per key)."""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import finalize

# Kilobytes of the table that are held in memory.
CACHE = 4_096


class OnDisk:
    """A table from texts to a few values each. Its file has no name and vanishes with the process.

    The file is made where SQLite makes temporary files: SQLITE_TMPDIR, TMPDIR, or /var/tmp.

    Example:
        >>> seen = OnDisk(2)
        >>> seen.put([("b", 1, "one"), ("a", 2, "two")])
        >>> seen.get("b"), seen.get("c"), list(seen)
        ((1, 'one'), None, [('a', 2, 'two'), ('b', 1, 'one')])
    """

    def __init__(self, values: int = 0) -> None:
        """Make an empty table.

        Args:
            values: number of values per key; 0 makes a set of texts.
        """
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        finalize(self, self._file.close)
        self._values, names = values, [f"value_{n}" for n in range(values)]
        self._put = f"REPLACE INTO kept VALUES ({', '.join('?' * (1 + values))})"
        self._get = f"SELECT {', '.join(names) or 1} FROM kept WHERE key = ?"
        for line in (
            "PRAGMA journal_mode = OFF",
            f"PRAGMA cache_size = -{CACHE}",
            f"CREATE TABLE kept ({', '.join(['key TEXT PRIMARY KEY', *names])}) WITHOUT ROWID",
            "BEGIN",
        ):
            self._file.execute(line)

    def put(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows of a key and its values. A key that is there already gets the new values.

        Raises:
            OSError: the disk of the temporary file is full.
        """
        with _full_disk():
            self._file.executemany(self._put, rows)

    def get(self, key: str) -> tuple[Any, ...] | None:
        """Return the values of a key; None if it is not there."""
        found: tuple[Any, ...] | None = self._file.execute(self._get, (key,)).fetchone()
        return found if found is None else found[: self._values]

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return int(self._file.execute("SELECT count(*) FROM kept").fetchone()[0])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield key and values of each row, in the order of the keys' code points. Nothing may be
        added meanwhile."""
        yield from self._file.execute("SELECT * FROM kept ORDER BY key")


@contextmanager
def _full_disk() -> Iterator[None]:
    """Turn SQLite's error about a full disk into the one that every stage reports."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        place = os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place) from None
