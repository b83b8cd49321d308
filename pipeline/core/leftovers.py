"""What killed stages left beside outputs that are there again.

A killed stage that runs again removes its part or goes on from it. DVC may restore its outputs
instead (of `dvc repro -f` that was killed, say), and then it does not run again.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

TO_RESUME = "progress.json"
"is in a part that its stage goes on from"


def sweep(folders: Iterable[Path]) -> None:
    """Remove the parts of outputs that are there, if no other stage runs in this workspace.

    Call it while the calling stage holds its lock.

    Args:
        folders: in which, or in the folders of which, outputs are written beside their place.
    """
    stale = [part for part in _parts(folders) if not (part / TO_RESUME).is_file()]
    if not stale:
        return
    from filelock import FileLock, Timeout

    with ExitStack() as held, suppress(Timeout):
        for lock in Path(".dvc/tmp").glob("captionlab-*.lock"):
            held.enter_context(FileLock(lock, is_singleton=True).acquire(timeout=0))
        for part in stale:
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def to_resume(folders: Iterable[Path], checkpoints: Path, models: Path) -> list[Path]:
    """Parts and checkpoints of stages whose outputs are there: they serve only who takes up the
    killed run once more, which nobody but a person knows."""
    parts = [part for part in _parts(folders) if (part / TO_RESUME).is_file()]
    trained = checkpoints.glob("*/*.pt")
    return sorted(parts) + sorted(f for f in trained if (models / f.parent.name).is_dir())


def _parts(folders: Iterable[Path]) -> Iterator[Path]:
    """Of outputs that are there."""
    for folder in folders:
        for part in (*folder.glob(".*.part"), *folder.glob("*/.*.part")):
            if part.with_name(part.name[1:].removesuffix(".part")).exists():
                yield part
