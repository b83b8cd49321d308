"""Keep dvc.lock, which several jobs of DVC write: its order, and its content if one is killed.

Stages that run at once end in any order, and DVC appends the entry of each. A plain `dvc repro`
would have kept the old entries first, and added the new ones in the order of the graph. A run
restores that order. dvc.lock is then the same byte for byte, and git shows no moved lines.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import UserError, say

LOCK = Path("dvc.lock")
# The entries before the run. A killed run leaves this file for the next run.
BEFORE = Path(".dvc/tmp/captionlab/lock-order.json")
# The file as it was before the run, if there was one. It stays as long as `BEFORE`.
KEPT = BEFORE.with_name("dvc.lock")


def mend() -> None:
    """Put back the dvc.lock of before a killed run if the kill left half of one.

    DVC writes the file in place. What the run had finished is in DVC's run cache, so the next run
    restores it.
    """
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not BEFORE.exists():  # no run was killed: whatever is wrong with the file, a person did it
        return
    with Repo(_wait_for_lock=True) as repo, repo.lock:
        _mend_path_locks(Path(repo.tmp_dir or ".dvc/tmp") / "rwlock")
        try:
            Lockfile(repo, str(LOCK)).load()
        except DvcException:
            if KEPT.exists():
                shutil.copyfile(KEPT, LOCK)
            else:
                LOCK.unlink()
            say(
                "dvc.lock was half written when the last run was killed. It is as it was before "
                "that run; what is finished comes back from DVC's run cache",
                file=sys.stderr,
            )


def _mend_path_locks(file: Path) -> None:
    """Remove DVC's list of locked paths if a kill left half of it."""
    try:
        json.loads(file.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return
    except ValueError:
        file.unlink()


@contextmanager
def in_order(graph: Iterable[str]) -> Iterator[None]:
    """Note the order of dvc.lock, run the block with its jobs, and restore the order afterwards.

    Args:
        graph: names of all stages, in the order in which `dvc repro` runs them.

    Raises:
        UserError: another run works in this workspace.
    """
    from dvc.repo import Repo
    from filelock import FileLock, Timeout

    BEFORE.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(BEFORE.with_name("run.lock"), timeout=0):
            with Repo(_wait_for_lock=True) as repo, repo.lock:
                if not BEFORE.exists():
                    KEPT.unlink(missing_ok=True)
                    if LOCK.exists():
                        shutil.copyfile(LOCK, KEPT)
                    BEFORE.write_text(json.dumps(_entries()), encoding="utf-8")
            try:
                yield
            finally:
                with Repo(_wait_for_lock=True) as repo, repo.lock:
                    _restore(graph)
    except Timeout:
        raise UserError(
            "another captionlab run works in this workspace: wait for it, or end it"
        ) from None


def _restore(graph: Iterable[str]) -> None:
    from dvc.utils.serialize import modify_yaml

    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    found = _entries()
    order = [name for name in before if name in found]
    order += [name for name in graph if name in found and name not in before]
    order += [name for name in found if name not in order]
    if order != found:
        with modify_yaml(str(LOCK)) as content:
            stages = content["stages"]
            for name in order:
                stages[name] = stages.pop(name)
    BEFORE.unlink()
    KEPT.unlink(missing_ok=True)


def read_lock() -> bytes:
    """Return the content of dvc.lock; b"" if there is none.

    DVC writes the file in place while it holds its own lock. A reader that does not hold that lock
    may read half a file.
    """
    from dvc.repo import Repo

    with Repo(_wait_for_lock=True) as repo, repo.lock:
        return LOCK.read_bytes() if LOCK.exists() else b""


def _entries() -> list[str]:
    from dvc.utils.serialize import load_yaml

    return list(load_yaml(str(LOCK)).get("stages", {})) if LOCK.exists() else []
