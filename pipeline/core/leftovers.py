"""Partial outputs that killed stages left beside outputs that exist again.

A killed stage that runs again removes its partial output or continues from it. But DVC may restore
its outputs instead (after a killed `dvc repro -f`, for example). The stage then does not run again.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

# A partial output with this file is one from which its stage continues.
TO_RESUME = "progress.json"


def sweep(folders: Iterable[Path]) -> None:
    """Remove the partial outputs whose finished outputs exist, unless another stage runs in this
    workspace. Those with a `TO_RESUME` file are kept.

    Call it while the calling stage holds its lock.

    Args:
        folders: folders that contain outputs, either directly or one level down. A partial output
            lies beside its output.
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
    """Return partial outputs and checkpoints of stages whose outputs exist. They help only to
    continue the killed run, and only a person knows whether to do that."""
    parts = [part for part in _parts(folders) if (part / TO_RESUME).is_file()]
    trained = checkpoints.glob("*/*.pt")
    return sorted(parts) + sorted(f for f in trained if (models / f.parent.name).is_dir())


def _parts(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the partial outputs whose finished outputs exist."""
    for folder in folders:
        for part in (*folder.glob(".*.part"), *folder.glob("*/.*.part")):
            if part.with_name(part.name[1:].removesuffix(".part")).exists():
                yield part
