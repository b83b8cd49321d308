"""Keep dvc.lock, which several jobs of DVC write: its order, and its content if one is killed.

Stages that run at once end in any order, and DVC appends the entry of each. A plain `dvc repro`
would have kept the old entries first, and added the new ones in the order of the graph. A run
restores that order. dvc.lock is then the same byte for byte, and git shows no moved lines. This
holds over several calls too: what counts as old is what was there before the first call, until a
call has run every stage.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError, say

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = Path("dvc.lock")
# The file as it was before the run, empty if there was none. A run that was killed, interrupted or
# has failed leaves it for the next one.
KEPT = Path(".dvc/tmp/captionlab/dvc.lock")
# The file as an interrupted or failed run left it. If it has changed since, the next run is a new
# one.
STOPPED = KEPT.with_name("stopped.lock")
# Held by a run for as long as it lives.
ALIVE = KEPT.with_name("run.lock")


def mend() -> None:
    """Put back the dvc.lock of before a killed run if the kill left half of one.

    DVC writes the file in place. What the run had finished is in DVC's run cache, so the next run
    restores it.
    """
    from dvc.repo import Repo
    from filelock import FileLock, Timeout

    # no run was killed: whatever is wrong with the file, a person did it
    if not KEPT.exists() or STOPPED.exists():
        return
    alive = FileLock(ALIVE, timeout=0)
    with suppress(Timeout), alive, Repo(_wait_for_lock=True) as repo, repo.lock:
        _mend_path_locks(Path(repo.tmp_dir or ".dvc/tmp"))
        _mend_lock(repo)


def _mend_lock(repo: "Repo") -> None:
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException

    try:
        Lockfile(repo, str(LOCK)).load()
    except DvcException:
        shutil.copyfile(KEPT, LOCK)
        if not LOCK.stat().st_size:  # there was none
            LOCK.unlink()
        say(
            "dvc.lock was half written when the last run was killed. It is as it was before "
            "that run; what is finished comes back from DVC's run cache",
            file=sys.stderr,
        )


def _mend_path_locks(folder: Path) -> None:
    """Remove DVC's list of locked paths if a kill left half of it."""
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    file = folder / RWLOCK_FILE
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder), wait=True):
        try:
            json.loads(file.read_text(encoding="utf-8") or "{}")
        except FileNotFoundError:
            return
        except ValueError:
            file.unlink()


@dataclass
class Run:
    """What the caller of `in_order` knows of its run."""

    complete: bool = False
    "Whether every stage of the run was run. The caller sets it."


@contextmanager
def in_order(graph: Iterable[str]) -> Iterator[Run]:
    """Note the order of dvc.lock, run the block with its jobs, and restore the order afterwards.

    The order that was noted lasts until a run is `complete`.

    Args:
        graph: names of all stages, in the order in which `dvc repro` runs them.

    Raises:
        UserError: another run works in this workspace.
    """
    from dvc.repo import Repo
    from filelock import FileLock, Timeout

    KEPT.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(ALIVE, timeout=0):
            with Repo(_wait_for_lock=True) as repo, repo.lock:
                if not _goes_on():
                    _write(KEPT, _content(LOCK))
                STOPPED.unlink(missing_ok=True)
            run = Run()
            try:
                yield run
            finally:
                with Repo(_wait_for_lock=True) as repo, repo.lock:
                    _restore(graph)
                    if run.complete:
                        KEPT.unlink()
                    else:
                        _write(STOPPED, _content(LOCK))
    except Timeout:
        raise UserError(
            "another captionlab run works in this workspace: wait for it, or end it"
        ) from None


def _goes_on() -> bool:
    """Return whether the run continues one that was killed, interrupted or has failed."""
    return KEPT.exists() and (not STOPPED.exists() or _content(STOPPED) == _content(LOCK))


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _write(file: Path, content: bytes) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.rename(file)


def _restore(graph: Iterable[str]) -> None:
    from dvc.utils.serialize import modify_yaml

    before, found = _entries(KEPT), _entries(LOCK)
    order = [name for name in before if name in found]
    order += [name for name in graph if name in found and name not in before]
    order += [name for name in found if name not in order]
    if order != found:
        with modify_yaml(str(LOCK)) as content:
            stages = content["stages"]
            for name in order:
                stages[name] = stages.pop(name)


def read_lock() -> bytes:
    """Return the content of dvc.lock; b"" if there is none.

    DVC writes the file in place while it holds its own lock. A reader that does not hold that lock
    may read half a file.
    """
    from dvc.repo import Repo

    with Repo(_wait_for_lock=True) as repo, repo.lock:
        return _content(LOCK)


def _entries(file: Path) -> list[str]:
    from dvc.utils.serialize import load_yaml

    content = load_yaml(str(file)) if file.exists() else None
    return list((content or {}).get("stages", {}))
