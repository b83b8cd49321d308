"""Keep the order of dvc.lock, which several jobs of DVC write.

Stages that run at once end in any order, and DVC appends the entry of each. A plain `dvc repro`
would have kept the old entries first, and added the new ones in the order of the graph. A run
restores that order. dvc.lock is then the same byte for byte, and git shows no moved lines.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import UserError

LOCK = Path("dvc.lock")
# The entries before the run. A killed run leaves this file for the next run.
BEFORE = Path(".dvc/tmp/captionlab/lock-order.json")


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
