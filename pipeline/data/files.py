"""Outputs appear whole or not at all: written beside their place under a temporary name, then
renamed."""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, one_line

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

RESTORE = "dvc checkout brings back what dvc repro made"
TEXTS = ("image_id", "file", "caption_id", "raw", "text", "split")
"columns of text in all tables of this project"


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` when the block ends well, delete it otherwise."""
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
    """Like `whole_file` for a folder. With `keep_partial` an interrupted run leaves its part for
    the next to resume."""
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


def write_json(path: Path, value: Any) -> None:
    """Sorted keys and a final newline, so that equal values are equal files.

    Raises:
        UserError: a number is NaN or infinite, which JSON does not have.
    """
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError:
        if not (place := _not_finite(value)):
            raise
        raise UserError(
            f"{path} cannot be written: {place} is not finite: train again with a lower train.lr"
        ) from None
    with whole_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _not_finite(value: Any, place: str = "the value") -> str:
    """Where the first such number of a JSON value stands, or ''."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else place
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    return next(filter(None, (_not_finite(item, f"'{key}'") for key, item in items)), "")


def read_json(path: Path) -> Any:
    """Raises:
    UserError: it is not there, or no JSON; NaN and Infinity are none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_json)
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run dvc repro") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable JSON file: {one_line(error)}: {RESTORE}") from None


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no number")


def read_checked(path: Path, form: "type[BaseModel]") -> dict[str, Any]:
    """A JSON object of the form that a pydantic model describes, as it stands in the file.

    Raises:
        UserError: as `read_json`; or a key is missing or of another type.
    """
    from pydantic import ValidationError

    found: dict[str, Any] = read_json(path)
    try:
        form.model_validate(found, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {key}: {first['msg']}: {RESTORE}") from None
    return found


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """While a Parquet file is read.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run dvc repro") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        what = f"{path} is no readable Parquet file: {one_line(error)}"
        raise UserError(f"{what}: {RESTORE}") from None


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Columns of a Parquet file that a stage wrote, or all of them.

    Raises:
        UserError: it is not there, is damaged, lacks a column, or has something else than text in a
            column of texts.
    """
    import pandas as pd
    from pyarrow.parquet import read_schema

    with readable(path):
        names = read_schema(path).names
    need_columns(names, columns or [], path)
    with readable(path):
        table = pd.read_parquet(path, columns=columns)
    check_texts(table, path)
    return table


def need_columns(there: list[str], columns: list[str], path: Path) -> None:
    """Raises a UserError where one is lacking."""
    missing = [column for column in columns if column not in there]
    if missing:
        raise UserError(
            f"{path} lacks the column {', '.join(missing)}: it needs {', '.join(columns)}"
        )


def check_texts(
    table: "pd.DataFrame", path: Path, whole: Collection[str] = ("image_id", "text", "split")
) -> None:
    """Raises a UserError where a column of texts (TEXTS) holds something else or bytes that are no
    text, or one of `whole` has an empty cell."""
    import pyarrow as pa

    for name in [column for column in TEXTS if column in table]:
        if table[name].dtype != object:  # Arrow's own, which it has not looked at yet
            with readable(path):
                pa.array(table[name]).validate(full=True)
        cells = table[name].dropna()
        if len(cells) < len(table) and name in whole:
            raise UserError(f"{path}: a row has no {name}: {RESTORE}")
        if len(cells) and not isinstance(cells.iloc[0], str):
            kind = type(cells.iloc[0]).__name__
            raise UserError(f"{path}: the column {name} holds {kind}, not text: {RESTORE}")


def digest(path: Path) -> str:
    """MD5 of a file as hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def loaded_code() -> str:
    """Stands for the source of every module of this project that is imported now, tracking aside:
    it changes no result."""
    modules = [
        (name, m.__file__) for name, m in sys.modules.items() if name.split(".")[0] == "pipeline"
    ]
    return fingerprint(
        sorted(
            (name, digest(Path(file))) for name, file in modules if file and ".tracking" not in name
        )
    )


def named_files(args: dict[str, Any]) -> list[str]:
    """Digests of the files that arguments name, such as weights or word vectors."""
    return [
        digest(Path(v)) for v in args.values() if isinstance(v, str) and v and Path(v).is_file()
    ]


def fingerprint(value: Any) -> str:
    """16 hex digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
