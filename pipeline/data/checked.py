"""Check files of other stages as they are read. A file that is missing, damaged or of another form
gives a one-line error, and so does a cell of the wrong kind."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, let_through, one_line
from pipeline.core.plain import problems

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

RESTORE = "dvc checkout brings back what dvc repro made"
# Columns of text in all tables of this project.
TEXTS = ("image_id", "caption_id", "raw", "text", "split")
# Columns of truth values, of numbers and of lists.
TRUTHS = {"undecodable"}
NUMBERS = {"log_prob", "tokens", "reference_nll", "reference_tokens", "top5_hits", "position"}
LISTS = {"alternatives", "argmax", "reference", "weights"}
# What Arrow, pandas and json raise for damaged files.
DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError),
    *(NotImplementedError, RecursionError),
)


def read_json(path: Path, cure: str = RESTORE) -> Any:
    """Return the value of a JSON file.

    Args:
        cure: how to restore a damaged file.

    Raises:
        UserError: the file does not exist or is not JSON. NaN and Infinity are not JSON.
    """
    return _json(path, cure)[1]


def _json(path: Path, cure: str) -> tuple[str, Any]:
    """Return the file's text and its value."""
    with readable(path, "JSON", cure):
        text = path.read_text(encoding="utf-8")
        return text, json.loads(text, parse_constant=_no_json)


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def read_checked(path: Path, form: "type[BaseModel]", cure: str = RESTORE) -> dict[str, Any]:
    """Return a JSON object as it stands in the file, after a check against a pydantic model.

    Args:
        cure: how to restore a damaged file.

    Raises:
        UserError: as in `read_json`; or a key is missing or has another type.
    """
    from pydantic import ValidationError

    text, found = _json(path, cure)
    try:
        form.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {problems(error, found)[0].told()}: {cure}") from None
    told: dict[str, Any] = found
    return told


def read_texts(path: Path) -> dict[str, list[str]]:
    """Return image_id -> texts from a JSON file.

    Raises:
        UserError: as in `read_json`; or the file holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no texts by image: {RESTORE}")
    check_lists(found, path)
    return found


def check_lists(found: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError if an image has anything other than a list of texts."""
    for image, texts in found.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}: image '{image}' has values other than texts: {RESTORE}")


def need_references(images: Iterable[str], references: Mapping[str, list[str]]) -> None:
    """Raise a UserError if an image has no references."""
    for image in images:
        if image not in references:
            raise UserError(f"image '{image}' has no references in data/references: {RESTORE}")


def inside(file: object) -> bool:
    """Return whether `file` is a path that stays in the folder it is relative to."""
    if not isinstance(file, str) or not file or "\0" in file:
        return False
    return not file.startswith("/") and ".." not in file.split("/")


@contextmanager
def readable(path: Path, form: str = "Parquet", cure: str = RESTORE) -> Iterator[None]:
    """Turn errors into a UserError while the block reads a file of this form.

    Raises:
        UserError: the file does not exist or is damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run dvc repro") from None
    except DAMAGED as error:
        let_through(error)
        what = f"{path} is not a readable {form} file: {one_line(error)}"
        raise UserError(f"{what}: {cure}") from None


# Text columns that have no empty cell, unless a reader says otherwise.
WHOLE = ("image_id", "text", "split")


def read_table(
    path: Path, columns: list[str] | None = None, whole: Collection[str] = WHOLE
) -> "pd.DataFrame":
    """Return columns of a Parquet file that a stage wrote; all of them by default.

    Args:
        whole: text columns that have no empty cell.

    Raises:
        UserError: the file does not exist, is damaged, lacks a column, or fails `check_columns`.
    """
    import pandas as pd
    from pyarrow.parquet import read_schema

    with readable(path):
        names = read_schema(path).names
    need_columns(names, columns or [], path)
    with readable(path):
        table = pd.read_parquet(path, columns=columns)
    check_columns(table, path, whole)
    return table


def need_columns(there: list[str], columns: list[str], path: Path) -> None:
    """Raise a UserError if a column is missing."""
    missing = [column for column in columns if column not in there]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it needs {', '.join(columns)}")


def check_columns(table: "pd.DataFrame", path: Path, whole: Collection[str] = WHOLE) -> None:
    """Check the cells of all columns whose kind is known.

    Raises:
        UserError: a text column (`TEXTS`) holds something other than text, or bytes that are not
            valid text. Or a column of `whole` has an empty cell. Or a column of truth values,
            numbers or lists holds another kind.
    """
    import pyarrow as pa

    for name in [column for column in TEXTS if column in table]:
        if table[name].dtype != object:  # Arrow's own type, not validated yet
            with readable(path):
                pa.array(table[name]).validate(full=True)
        cells = table[name].dropna()
        if len(cells) < len(table) and name in whole:
            raise UserError(f"{path}: a row has no {name}: {RESTORE}")
        if len(cells) and not isinstance(cells.iloc[0], str):
            kind = type(cells.iloc[0]).__name__
            raise UserError(f"{path}: the column {name} holds {kind}, not text: {RESTORE}")
    _check_others(table, path)


def _check_others(table: "pd.DataFrame", path: Path) -> None:
    """Check the columns of truth values, numbers and lists."""
    for name in table.columns if len(table) else ():
        kind = table[name].dtype.kind
        wrong = (name in TRUTHS and kind != "b") or (name in NUMBERS and kind not in "iuf")
        if name in LISTS:
            wrong = not all(
                hasattr(cell, "__len__") and type(cell) is not str for cell in table[name]
            )
        if wrong:
            what = "truths" if name in TRUTHS else "numbers" if name in NUMBERS else "lists"
            raise UserError(f"{path}: the column {name} does not hold {what}: {RESTORE}")
