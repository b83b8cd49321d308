"""Read captions in common formats, from a file or from memory, as rows.

    COCO       [{"image_id": 1, "caption": "..."}], or such a list under the key `annotations`
    by image   {"1": "..."}, or {"1": ["...", "..."]}
    rows       JSON lines, CSV, TSV or Parquet with image_id and caption (or text): one or more
               rows per image
    files      rows with `file` in place of image_id, as `captionlab caption --out` writes them
    in memory  a dict by image, a list of rows, or a DataFrame with the same columns

An image_id is text: 42 and "42" are the same image. Rows may have a `split` to select them by.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.core.separators import check_separator
from pipeline.sources.shared.caption_tables import (
    Line,
    coco_images,
    content_of,
    decoded,
    image_id,
    kind,
    parse_json,
    read_delimited,
    read_json_lines,
    read_parquet,
)

if TYPE_CHECKING:
    import pandas as pd

    # Captions of some images: a file, or one of the forms in memory.
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

FORMATS = "COCO's .json, .jsonl, .csv, .tsv or .parquet"
SHAPES = '[{"image_id": 1, "caption": "..."}], {"annotations": [...]} or {"1": ["...", "..."]}'
IN_MEMORY = "a path, a dict by image_id, a DataFrame or a list of rows (image_id, caption)"
TEXTS = ("caption", "text", "captions")
# Columns that are read; a table may have others.
USED = ("image_id", "file", *TEXTS, "split")


@dataclass(frozen=True)
class Row:
    where: str
    "File and row, for messages."
    image: str
    texts: list[str]
    split: str | None
    file: str = ""
    "Path of the picture, if the row has no image_id; `image` is then ''."


def read_rows(source: "Source", name: str) -> list[Row]:
    """Return the rows of a file, or of captions in memory.

    Args:
        name: what messages call captions in memory: predictions or references.

    Raises:
        UserError: there is no such file, its format is not known, or it is empty.
    """
    if isinstance(source, str | os.PathLike):
        return _read(Path(source))
    rows = list(_in_memory(source, name))
    if not rows:
        raise UserError(f"{name} is empty: give {IN_MEMORY}")
    return rows


def _in_memory(source: Any, name: str) -> Iterator[Row]:
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # without importing pandas
        return _rows([_as_json(row) for row in source.to_dict("records")], name)
    if isinstance(source, Mapping):
        return _tree(source, name)
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return _rows(list(source), name)
    raise UserError(f"{name}: expected {IN_MEMORY}, found one of type {type(source).__name__}")


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with lists for arrays: a cell with several captions may be an array."""
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
    if path.suffix.lower() not in readers and not path.is_dir():
        raise UserError(f"{path} is of an unknown format: give {FORMATS}")
    if not path.is_file():
        raise UserError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}: give a file, {FORMATS}"
        )
    rows = list(readers[path.suffix.lower()](path))
    if not rows:
        what = "holds no captions" if path.stat().st_size else "is empty"
        raise UserError(f"{path} {what}: give a file of captions, {FORMATS}")
    return rows


def text_of(path: Path) -> str:
    data = content_of(path)
    text = decoded(data, str(path))
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8") from None
    return text


def _json(path: Path) -> Iterator[Row]:
    text = text_of(path)
    if not text.strip():
        return iter([])
    return _tree(parse_json(text, str(path), "name a file of JSON lines .jsonl"), str(path))


def _tree(found: Any, where: str) -> Iterator[Row]:
    """Yield the rows of COCO's JSON, of texts by image, or of a list of rows."""
    if isinstance(found, Mapping) and isinstance(found.get("annotations"), list):
        yield from _coco(found, where)
    elif isinstance(found, Mapping):
        for image, texts in found.items():
            key = f"{where}, key '{image}'"
            yield Row(key, image_id(image, key), _texts(texts, key), None)
    elif isinstance(found, list):
        yield from _rows(found, where)
    else:
        raise UserError(f"{where}: expected {SHAPES}, found {kind(found)}")


def _coco(found: Mapping[str, Any], where: str) -> Iterator[Row]:
    """Yield a row without texts for each of COCO's images, then a row for each annotation.

    The rows without texts reveal an image that has no annotations. An annotation that names no
    split has the split of its image.
    """
    splits = {
        name: _split(about.get("split"), where)
        for name, about in coco_images(found.get("images"), where).items()
    }
    yield from (Row(where, name, [], split) for name, split in splits.items())
    for row in _rows(found["annotations"], f"{where}, annotations"):
        yield replace(row, split=row.split or splits.get(row.image))


def _rows(found: list[Any], where: str) -> Iterator[Row]:
    for number, row in enumerate(found):
        yield _row(row, f"{where}, item {number}")


def _lines(path: Path) -> Iterator[Row]:
    rows = list(read_json_lines(text_of(path), path))
    unread = [row for _, row in rows if _is_unread(row)]
    if unread and len(unread) == len(rows):
        count = f"{len(unread)} picture{'s' * (len(unread) != 1)}"
        first = f"{unread[0]['file']}: {unread[0]['error']}"
        raise UserError(
            f"{path} has no captions: {count} could not be read (first {first}): caption others"
        )
    yield from (_row(row, where) for where, row in rows if not _is_unread(row))


def _is_unread(row: Any) -> bool:
    """Return whether the row is for a picture that `captionlab caption` could not read."""
    return isinstance(row, dict) and {"file", "error"} <= set(row) and not set(TEXTS) & set(row)


def _csv(path: Path) -> Iterator[Row]:
    text = text_of(path)
    check_separator(path, text.partition("\n")[0], USED)
    header, lines = read_delimited(text, path, USED)
    return _rows_of(header, lines, f"{path}, line 1")


def _parquet(path: Path) -> Iterator[Row]:
    if not path.stat().st_size:
        return iter([])
    names, lines = read_parquet(path, USED)
    return _rows_of(names, lines, f"{path}, row 0")


def _rows_of(header: list[str], lines: Iterator[Line], where: str) -> Iterator[Row]:
    """Return the rows of a table; its columns are checked even if it has no rows."""
    if header and not (set(header) & {"image_id", "file"} and set(header) & set(TEXTS)):
        lines = iter([Line(where, dict.fromkeys(header))])
    return (_row(line.cells, line.where) for line in lines)


def _row(row: Any, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with image_id and caption, found {kind(row)}")
    named = [name for name in TEXTS if name in row]
    file = row.get("file") if "image_id" not in row else None
    if not named or ("image_id" not in row and not (file and isinstance(file, str))):
        raise UserError(
            f"{where}: expected image_id and caption (or text), found "
            f"{', '.join(map(str, row)) or 'nothing'}"
        )
    return Row(
        where,
        "" if file else image_id(row["image_id"], where),
        _texts(row[named[0]], where),
        _split(row.get("split"), where),
        file or "",
    )


def _split(found: Any, where: str) -> str | None:
    if found is None or found == "" or found != found:  # NaN: pandas' empty cell
        return None
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise UserError(f"{where}: a split is a text, found {kind(found)}")
    return str(found).strip()


def _texts(found: Any, where: str) -> list[str]:
    texts = list(found) if isinstance(found, list | tuple) else [found]
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{where}: a caption is a text, or a list of texts, found {kind(text)}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(
                f"{where}: half a character (a lone surrogate) in a caption: write the "
                "file as UTF-8 again"
            )
    return texts
