"""A SQLite file as MLflow's store: there whole or not at all, whoever is killed while it is made.

MLflow creates its tables in place, one migration after the other, in more than a second. A kill in
between leaves a file that it cannot open any more, and two processes that create at once corrupt it
for good.
"""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from pipeline.data.files import remove

PREFIX = "sqlite:///"
PATIENCE = 15.0
"seconds after its last change that a file without content counts as being made by another program"
CONTENT = ("experiments", "runs", "registered_models")
"MLflow's first experiment is what it writes when all tables are there"


def database(uri: str) -> Path | None:
    """The file that an address names; None where it names another kind of store."""
    return Path(uri.removeprefix(PREFIX)) if uri.startswith(PREFIX) else None


def make_whole(path: Path) -> None:
    """Create the store, unless it is there; one that was never finished is kept beside it as
    `<name>.unfinished`."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=120):
        while is_unfinished(path):
            if time.time() - path.stat().st_mtime > PATIENCE:
                os.replace(path, path.with_name(f"{path.name}.unfinished"))
            else:
                time.sleep(0.5)
        if not path.exists():
            _create(path)


def is_unfinished(path: Path) -> bool:
    """Whether nothing has ever been in it: the creation goes on, or ended early. What is no
    database at all is left alone."""
    if not path.is_file():
        return False
    try:
        # a journal that a kill left is played back now, since it must not stay beside another file
        # of that name
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as found:
            there = {
                name
                for (name,) in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
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
    SqlAlchemyStore(f"{PREFIX}{part}", str(path.parent / "mlruns")).engine.dispose()
    os.replace(part, path)
    remove(folder)
