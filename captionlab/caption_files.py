"""Captions in the forms that people have them in -> rows.

    COCO       [{"image_id": 1, "caption": "..."}], or such a list under the key `annotations`
    by image   {"1": "..."}, or {"1": ["...", "..."]}
    rows       JSON lines, CSV, TSV or Parquet with image_id and caption (or text): one or more
               rows an image
    files      rows with `file` in place of image_id, as `captionlab caption --out` writes them
    in memory  a dict by image, a list of rows, or a DataFrame with the same columns

An image_id is text: 42 and "42" are one image. Rows may have a `split`, by which to choose.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, one_line

if TYPE_CHECKING:
    import pandas as pd

    Source = (
        str
        | os.PathLike[str]
        | Mapping[str, str]
        | Mapping[int, str]
        | Mapping[str, list[str]]
        | Mapping[int, list[str]]
        | Iterable[Mapping[str, Any]]
        | pd.DataFrame
    )
    "Captions of some images: a file, or one of the forms in memory."

FORMATS = "COCO's .json, .jsonl, .csv, .tsv or .parquet"
SHAPES = '[{"image_id": 1, "caption": "..."}], {"annotations": [...]} or {"1": ["...", "..."]}'
IN_MEMORY = "a path, a dict by image_id, a DataFrame or a list of rows (image_id, caption)"
TEXTS = ("caption", "text", "captions")


@dataclass(frozen=True)
class Row:
    where: str
    "file and row, for messages"
    image: str
    texts: list[str]
    split: str | None
    file: str = ""
    "of the picture, where `image` is not known"


def read_rows(source: "Source", name: str) -> list[Row]:
    """The rows of a file, or of captions in memory.

    Args:
        name: what messages call captions in memory: predictions or references.

    Raises:
        UserError: no such file, another form, or nothing in it.
    """
    if isinstance(source, str | os.PathLike):
        return _read(Path(source))
    rows = list(_in_memory(source, name))
    if not rows:
        raise UserError(f"{name} is empty: give {IN_MEMORY}")
    return rows


def _in_memory(source: Any, name: str) -> Iterator[Row]:
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas need not be imported
        return _rows([_as_json(row) for row in source.to_dict("records")], name)
    if isinstance(source, Mapping):
        return _tree(source, name)
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return _rows(list(source), name)
    raise UserError(f"{name}: expected {IN_MEMORY}, found one of type {type(source).__name__}")


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    """A cell with several captions may be an array."""
    return {name: cell.tolist() if hasattr(cell, "tolist") else cell for name, cell in row.items()}


def _read(path: Path) -> list[Row]:
    readers = {
        ".json": _json,
        ".jsonl": _lines,
        ".ndjson": _lines,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
    }
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} is of an unknown format: give {FORMATS}")
    if not path.is_file():
        raise UserError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}: give a file, {FORMATS}"
        )
    rows = list(readers[path.suffix.lower()](path))
    if not rows:
        raise UserError(f"{path} is empty: expected captions, as {FORMATS}")
    return rows


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _json(path: Path) -> Iterator[Row]:
    text = text_of(path)
    if not text.strip():
        return iter([])
    return _tree(_parse(text, str(path), "name a file of JSON lines .jsonl"), str(path))


def _tree(found: Any, where: str) -> Iterator[Row]:
    """Of COCO's objects, of texts by image, or of a list of rows."""
    if isinstance(found, Mapping) and isinstance(found.get("annotations"), list):
        yield from _images_alone(found.get("images"), where)
        yield from _rows(found["annotations"], f"{where}, annotations")
    elif isinstance(found, Mapping):
        for image, texts in found.items():
            key = f"{where}, key '{image}'"
            yield Row(key, _image(image, key), _texts(texts, key), None)
    elif isinstance(found, list):
        yield from _rows(found, where)
    else:
        raise UserError(f"{where}: expected {SHAPES}, found {_kind(found)}")


def _images_alone(listed: Any, where: str) -> Iterator[Row]:
    """COCO's images without texts, so that one without annotations is noticed."""
    for image in listed if isinstance(listed, list) else []:
        if isinstance(image, dict) and "id" in image:
            yield Row(where, _image(image["id"], where), [], image.get("split"))


def _rows(found: list[Any], where: str) -> Iterator[Row]:
    for number, row in enumerate(found):
        yield _row(row, f"{where}, item {number}")


def _lines(path: Path) -> Iterator[Row]:
    lines = [
        (f"{path}, line {n}", line)
        for n, line in enumerate(text_of(path).split("\n"), 1)
        if line.strip()
    ]
    rows = [
        (where, _parse(line, where, "each line is an object of its own")) for where, line in lines
    ]
    unread = [row for _, row in rows if _is_unread(row)]
    if unread and len(unread) == len(rows):
        count = f"{len(unread)} picture{'s' * (len(unread) != 1)}"
        first = f"{unread[0]['file']}: {unread[0]['error']}"
        raise UserError(
            f"{path} has no captions: {count} could not be read (first {first}): caption others"
        )
    yield from (_row(row, where) for where, row in rows if not _is_unread(row))


def _is_unread(row: Any) -> bool:
    """Whether it is of a picture that `captionlab caption` could not read."""
    return isinstance(row, dict) and {"file", "error"} <= set(row) and not set(TEXTS) & set(row)


def _parse(text: str, where: str, hint: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
            raise UserError(
                f"{where}: '{twice}' stands there twice: give one caption an image, or a "
                "list of references"
            )
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error} ({hint})") from None


def _csv(path: Path) -> Iterator[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(
        io.StringIO(text_of(path), newline=""), delimiter=delimiter, strict=True
    )
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where}: not as many fields as the header has: put captions with "
                    "commas in double quotes"
                )
            yield _row(row, where)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}: mend the quotes there") from None


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        names = parquet.read_schema(path).names
        image = "image_id" if "image_id" in names else "file"
        wanted = [name for name in (image, *TEXTS, "split") if name in names]
        rows = (
            parquet.read_table(path, columns=wanted).to_pylist()
            if image in wanted
            else [dict.fromkeys(names)]
        )
    except (ArrowException, OSError) as error:
        empty = (
            "is empty"
            if path.stat().st_size == 0
            else f"is no readable Parquet file: {one_line(error)}"
        )
        raise UserError(f"{path} {empty}") from None
    yield from (_row(row, f"{path}, row {number}") for number, row in enumerate(rows))


def _row(row: Any, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where}: expected an object with image_id and caption, found {_kind(row)}"
        )
    named = [name for name in TEXTS if name in row]
    file = row.get("file") if "image_id" not in row else None
    if not named or ("image_id" not in row and not (file and isinstance(file, str))):
        raise UserError(
            f"{where}: expected image_id and caption (or text), found "
            f"{', '.join(map(str, row)) or 'nothing'}"
        )
    split = row.get("split") if isinstance(row.get("split"), str) else None
    return Row(
        where,
        "" if file else _image(row["image_id"], where),
        _texts(row[named[0]], where),
        split,
        file or "",
    )


def _image(found: Any, where: str) -> str:
    found = found.item() if hasattr(found, "item") else found  # of numpy
    whole = int(found) if isinstance(found, float) and found.is_integer() else found
    if isinstance(whole, bool) or not isinstance(whole, str | int):
        raise UserError(f"{where}: an image_id is a number or a text, found {_kind(found)}")
    return str(whole)


def _texts(found: Any, where: str) -> list[str]:
    texts = list(found) if isinstance(found, list | tuple) else [found]
    for text in texts:
        if not isinstance(text, str):
            raise UserError(
                f"{where}: a caption is a text, or a list of texts, found {_kind(text)}"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(
                f"{where}: half a character (a lone surrogate) in a caption: write the "
                "file as UTF-8 again"
            )
    return texts


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return (
            f"an object with the keys {', '.join(map(str, list(value)[:4]))}"
            if value
            else "an empty object"
        )
    kinds = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
