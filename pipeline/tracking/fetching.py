"""Downloads of MLflow files into a local folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.capacity import free_disk
from pipeline.core.errors import UserError

# Bytes of free space below which a disk counts as full. Tables and graphs are smaller than this,
# models are larger.
ROOM = 1_000_000


@contextmanager
def fetching(folder: Path) -> Iterator[None]:
    """Report a full disk while MLflow writes files into `folder`.

    MLflow's clients hide the cause of a failure, so the free space is checked after one.

    Raises:
        UserError: the block failed, and the disk is full.
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
