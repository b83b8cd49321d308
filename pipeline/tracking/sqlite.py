"""A SQLite file as MLflow's store: there whole or not at all, whoever is killed while it is made.

MLflow creates its tables in place, one migration after the other, in more than a second. A kill in
between leaves a file that it cannot open any more, and two processes that create at once corrupt it
for good.
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
PATIENCE = 15.0
"seconds after its last change that a file without content counts as being made by another program"
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
CONTENT = ("experiments", "runs", "registered_models")
"MLflow's first experiment is what it writes when all tables are there"


def database(uri: str) -> Path | None:
    """The file that an address names; None where it names another kind of store."""
    return Path(uri.removeprefix(PREFIX)) if uri.startswith(PREFIX) else None


def fault(path: Path, writes: bool, seconds: float) -> str | None:
    """What is wrong with the file in a way that no waiting cures, and what to do; None: nothing, or
    it is not there and can be made.

    Args:
        writes: whether the caller wants to change it, or to create it.
        seconds: to wait for another program that keeps it locked.

    Raises:
        OSError: it is locked for longer.
    """
    if path.exists() and not path.is_file():
        return "is no plain file: name another one in MLFLOW_TRACKING_URI"
    if writes and (reason := _unwritable(path.parent)):
        return (
            f"cannot be written ({reason} in {path.parent}): mend that, or name another place in "
            "MLFLOW_TRACKING_URI, then captionlab sync publishes there"
        )
    return _fault_of(path, writes, seconds) if path.exists() else None


def _unwritable(folder: Path) -> str:
    """Why no file can be made there, or ''. SQLite makes one beside the database in every
    change."""
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
    """Whether SQLite finds a fault anywhere in the file, all of which is read."""
    try:
        with closing(_connect(path, 1.0)) as found:
            return bool(found.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except sqlite3.DatabaseError as error:
        return "locked" not in str(error)


def _connect(path: Path, seconds: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=seconds, isolation_level=None
    )


def make_whole(path: Path) -> None:
    """Create the store, unless it is there; one that was never finished is kept beside it as
    `<name>.unfinished`."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=120):
        while is_unfinished(path):
            if is_abandoned(path):
                os.replace(path, path.with_name(f"{path.name}.unfinished"))
            else:
                time.sleep(0.5)
        if not path.exists():
            _create(path)


def is_abandoned(path: Path) -> bool:
    """Whether nobody makes the file any more. A last change in the future says so, too: the clock
    has been put back since."""
    return abs(time.time() - path.stat().st_mtime) > PATIENCE


def is_unfinished(path: Path) -> bool:
    """Whether nothing has ever been in it: the creation goes on, or ended early. What is no
    database at all is left alone."""
    if not path.is_file():
        return False
    try:
        # a journal that a kill left is played back now, since it must not stay beside another file
        # of that name
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
    """In a folder of its own, since SQLite keeps a journal beside the file, and would play it into
    the next attempt."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.with_name(f".{path.name}.part")
    remove(folder)
    folder.mkdir()
    part = folder / path.name
    try:
        SqlAlchemyStore(f"{PREFIX}{part}", str(path.parent / "mlruns")).engine.dispose()
        os.replace(part, path)
    finally:  # of a full disk, too
        remove(folder)
