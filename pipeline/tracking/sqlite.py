"""A SQLite file as MLflow's store. The file is complete or absent, even if the process that creates
it is killed.

MLflow creates its tables in place, one migration after another, which takes more than a second. A
kill during that time leaves a file that MLflow can no longer open. Two processes that create it at
the same time corrupt it permanently.
"""

import os
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from pipeline.data.files import remove

PREFIX = "sqlite:///"
CURE = "rename it, then captionlab sync fills a new one from this workspace"
# Seconds since its last change during which a file without content counts as being created by
# another program.
PATIENCE = 15.0
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
# Tables that show whether a store is finished. MLflow writes its first experiment once all tables
# exist.
CONTENT = ("experiments", "runs", "registered_models")


def database(uri: str) -> Path | None:
    """Return the file that an address names, or None if it names another kind of store."""
    return Path(uri.removeprefix(PREFIX)) if uri.startswith(PREFIX) else None


def fault(path: Path, writes: bool, seconds: float) -> str | None:
    """Return a fault of the file that waiting does not cure, with what to do about it.

    Args:
        writes: whether the caller wants to change or create the file.
        seconds: how long to wait for another program that keeps the file locked.

    Returns:
        None if there is no fault. A missing file is no fault if it can be created.

    Raises:
        OSError: the file stays locked for longer.
    """
    if path.exists() and not path.is_file():
        return "is not a regular file: set MLFLOW_TRACKING_URI to another file"
    if writes and (reason := _unwritable(path.parent)):
        return (
            f"cannot be written ({reason} in {path.parent}): fix that, or name another place in "
            "MLFLOW_TRACKING_URI, then captionlab sync publishes there"
        )
    return _fault_of(path, writes, seconds) if path.exists() else None


def _unwritable(folder: Path) -> str:
    """Return why no file can be created in the folder, or ''. SQLite creates a file beside the
    database for every change."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    return ""


def _fault_of(path: Path, writes: bool, seconds: float) -> str | None:
    try:
        with closing(_connect(path, seconds)) as found:
            there = {name for (name,) in found.execute(TABLES)}
            if there and not there & {"experiments", "alembic_version"}:
                return "is the database of another program: name another one"
            if "experiments" in there:
                found.execute("SELECT COUNT(*) FROM experiments").fetchone()
            if writes:
                found.execute("BEGIN IMMEDIATE")
                found.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        return _said(path, error)
    return None


def _said(path: Path, error: sqlite3.DatabaseError) -> str:
    if "locked" in str(error):
        raise OSError("another program keeps it locked") from None
    if "readonly" in str(error):
        return "is read-only: make it writable, or " + CURE
    if not os.access(path, os.R_OK):
        return "cannot be read: make it readable, or " + CURE
    return f"is broken ({error}): {CURE}"


def is_broken(path: Path) -> bool:
    """Return whether SQLite finds a fault in the file. This reads the whole file."""
    try:
        with closing(_connect(path, 1.0)) as found:
            return bool(found.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except sqlite3.DatabaseError as error:
        return "locked" not in str(error)


def _connect(path: Path, seconds: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=seconds, isolation_level=None
    )


def make_whole(path: Path, seconds: float) -> None:
    """Create the store unless it exists. One whose creation was never finished is renamed to
    `<name>.unfinished`.

    Args:
        seconds: how long to wait for another program that is creating it.

    Raises:
        OSError: the other program takes longer.
    """
    from filelock import FileLock, Timeout

    until = time.monotonic() + seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    slow = OSError("another program is still creating it")
    try:
        with FileLock(f"{path}.lock").acquire(timeout=max(0.0, seconds)):
            while is_unfinished(path):
                if is_abandoned(path):
                    os.replace(path, path.with_name(f"{path.name}.unfinished"))
                elif time.monotonic() > until:
                    raise slow
                else:
                    time.sleep(0.5)
            if not path.exists():
                _create(path)
    except Timeout:
        raise slow from None


def is_abandoned(path: Path) -> bool:
    """Return whether no program is still creating the file.

    A last change far in the future counts, too, because it means that the clock has been set back.
    """
    return abs(time.time() - path.stat().st_mtime) > PATIENCE


def is_unfinished(path: Path) -> bool:
    """Return whether the store never held anything: its creation is in progress or ended early.

    A file that is not a database does not count as unfinished, so it is left alone.
    """
    if not path.is_file():
        return False
    try:
        # Connecting also rolls back a journal that a kill left. The journal must not remain beside
        # a new file of the same name.
        with closing(_connect(path, 5.0)) as found:
            there = {name for (name,) in found.execute(TABLES)}
            return not any(
                found.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
                for table in CONTENT
                if table in there
            )
    except sqlite3.DatabaseError:
        return False


def _create(path: Path) -> None:
    """Create the store in a separate folder and move it into place.

    SQLite keeps a journal beside the file. Without the folder, a journal that a kill left would be
    applied to the next attempt.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.with_name(f".{path.name}.part")
    remove(folder)
    folder.mkdir()
    part = folder / path.name
    try:
        SqlAlchemyStore(f"{PREFIX}{part}", str(path.parent / "mlruns")).engine.dispose()
        os.replace(part, path)
    finally:  # also when the disk is full
        remove(folder)
