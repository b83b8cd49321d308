"""Write outputs whole or not at all. They are written beside their place under a temporary name,
then renamed."""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def remove(path: Path) -> None:
    """Delete a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path. Rename it to `path` if the block succeeds, and delete it
    otherwise."""
    part = _partial(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        remove(part)
        raise


@contextmanager
def whole_folder(path: Path, keep_partial: bool = False) -> Iterator[Path]:
    """Do the same as `whole_file` for a folder. With `keep_partial`, an interrupted run leaves its
    partial folder for the next run to resume."""
    part = _partial(path)
    if not keep_partial:
        remove(part)
    part.mkdir(parents=True, exist_ok=True)
    try:
        yield part
    except BaseException:
        if not keep_partial:
            remove(part)
        raise
    remove(path)
    os.replace(part, path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Provide an empty folder beside `path` for the duration of the block. If the process is
    killed, the next run removes the folder; the system's temporary folder would keep it."""
    part = _partial(path)
    remove(part)
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        remove(part)


def write_json(path: Path, value: Any, cure: str = "") -> None:
    """Write JSON with sorted keys and a final newline, so that equal values give equal files.

    Args:
        cure: what to do if a number is not finite.

    Raises:
        UserError: a number is NaN or infinite, which JSON does not allow.
    """
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError:
        if not (place := _not_finite(value)):
            raise
        what = f"{path} cannot be written: {place} is not finite"
        raise UserError(f"{what}: {cure}" if cure else what) from None
    with whole_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _not_finite(value: Any, place: str = "the value") -> str:
    """Return the place of the first number of a JSON value that is not finite, or ''."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else place
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    return next(filter(None, (_not_finite(item, f"'{key}'") for key, item in items)), "")


def digest(path: Path) -> str:
    """Return the MD5 of a file as hex digits. The file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def loaded_code() -> str:
    """Return a fingerprint of the source of every imported module of `pipeline`. Tracking is left
    out, because it changes no result."""
    modules = [
        (name, m.__file__) for name, m in sys.modules.items() if name.split(".")[0] == "pipeline"
    ]
    return fingerprint(
        sorted(
            (name, digest(Path(file))) for name, file in modules if file and ".tracking" not in name
        )
    )


def named_files(args: dict[str, Any]) -> list[str]:
    """Return the digests of the files that arguments name, such as weights or word vectors."""
    return [
        digest(Path(v)) for v in args.values() if isinstance(v, str) and v and Path(v).is_file()
    ]


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
