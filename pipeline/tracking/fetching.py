"""Files of MLflow that are fetched into a folder of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.capacity import free_disk
from pipeline.core.errors import UserError

ROOM = 1_000_000
"bytes below which a disk counts as full: tables and graphs are smaller, models larger"


@contextmanager
def fetching(folder: Path) -> Iterator[None]:
    """While MLflow writes files there. Its clients hide why that failed, so the disk is looked at
    afterwards.

    Raises:
        UserError: something failed, and the disk is full.
    """
    try:
        yield
    except Exception:
        if free_disk(folder) < ROOM:
            raise UserError(
                f"the disk is full while files of MLflow are fetched into {folder}: free some "
                "space there, or let TMPDIR name a folder that has some"
            ) from None
        raise
