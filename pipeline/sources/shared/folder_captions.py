"""The captions of a folder's images: a table, COCO's JSON, or a text file beside each image."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.separators import check_separator
from pipeline.sources.shared import base
from pipeline.sources.shared.caption_tables import (
    content_of,
    decoded,
    read_delimited,
    read_json_lines,
    read_parquet,
)
from pipeline.sources.shared.gate import Gate

SPLIT_NAMES = {"dev": "val", "valid": "val", "validation": "val", "restval": "train"} | {
    name: name for name in base.SPLITS
}


FORMATS = ".csv, .tsv, .jsonl, .parquet or .json (COCO)"


@dataclass(frozen=True)
class Columns:
    """Names of the columns or keys in the captions file."""

    image: str
    caption: str
    split: str

    @property
    def names(self) -> list[str]:
        return [self.image, self.caption, self.split]


@dataclass(frozen=True)
class Entry:
    """An image as the captions file names it."""

    where: str
    "Line or row, for messages."
    image: str
    captions: list[str]
    split: str | None


def read_captions(table: Path, columns: Columns) -> Iterator[Entry]:
    """Yield the rows of a captions file.

    Raises:
        UserError: the file is not there, has an unknown format, lacks a column, or has a malformed
            row.
    """
    readers = {
        ".csv": _csv,
        ".tsv": _csv,
        ".jsonl": _json_lines,
        ".parquet": _parquet,
        ".json": _coco,
    }
    if not table.is_file():
        raise UserError(
            f"{table} (captions: in params.yaml) is not there: name a file {FORMATS}, or "
            "null for .txt files"
        )
    if table.suffix.lower() not in readers:
        raise UserError(
            f"{table} (captions: in params.yaml) is of an unknown format: give {FORMATS}"
        )
    return readers[table.suffix.lower()](table, columns)


def _csv(table: Path, columns: Columns) -> Iterator[Entry]:
    text = decoded(content_of(table), str(table))
    if not text.strip():
        return iter([])
    check_separator(table, text.partition("\n")[0], columns.names)
    header, lines = read_delimited(text, table, columns.names)
    _need(header, columns, str(table))
    return (_entry(line.cells, columns, line.where) for line in lines)


def _json_lines(table: Path, columns: Columns) -> Iterator[Entry]:
    for where, found in read_json_lines(decoded(content_of(table), str(table)), table):
        if not isinstance(found, dict):
            raise UserError(
                f"{where}: expected an object with {columns.image} and {columns.caption}"
            )
        _need(found, columns, where)
        yield _entry(found, columns, where)


def _parquet(table: Path, columns: Columns) -> Iterator[Entry]:
    if not table.stat().st_size:
        return iter([])
    header, lines = read_parquet(table, columns.names)
    _need(header, columns, str(table))
    return (_entry(line.cells, columns, line.where) for line in lines)


def _coco(table: Path, columns: Columns) -> Iterator[Entry]:
    for image, texts in base.read_coco(content_of(table), str(table)):
        row = {
            columns.image: image["file_name"],
            columns.caption: texts,
            columns.split: image.get(columns.split),
        }
        yield _entry(row, columns, f"{table}, image {image['id']}")


def read_text_files(root: Path, images: set[str], gate: Gate) -> Iterator[Entry]:
    """Yield the captions of each .txt.

    A text whose image is missing still names one, with the suffix .jpg.
    """
    stems = {str(PurePosixPath(name).with_suffix("")): name for name in sorted(images)}
    for file in sorted(root.rglob("*.txt")):
        inside = PurePosixPath(file.relative_to(root).as_posix())
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and gate.takes(inside.as_posix()):
            stem = within(str(inside.with_suffix("")), str(root))
            lines = decoded(file.read_bytes(), str(file)).split("\n")
            texts = [line.strip() for line in lines if line.strip()]
            yield Entry(str(file), stems.get(stem, f"{stem}.jpg"), texts, None)


def within(name: object, where: str) -> str:
    """Return the name in its plain form, `a.jpg` for `./a.jpg`.

    Raises:
        UserError: it leaves the folder, or a line of text cannot contain it.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: no image is named")
    path = PurePosixPath(name.strip())
    leaves = path.is_absolute() or ".." in path.parts or "\\" in name or name[1:2] == ":"
    if leaves or not path.name:
        raise UserError(
            f"{where}: image {base.printable(name)!r} must be named within the folder, "
            "with / and without .."
        )
    if not base.printable(str(path)).isprintable() or base.printable(str(path)) != str(path):
        raise UserError(
            f"{where}: image {base.printable(name)!r} has bytes that are not text in its "
            "name: rename it"
        )
    return str(path)


def _need(there: Iterable[str], columns: Columns, where: str) -> None:
    names = list(there)
    required = {"image_column": columns.image, "caption_column": columns.caption}
    if columns.split != "split":
        required["split_column"] = columns.split
    for argument, name in required.items():
        if name not in names:
            raise UserError(
                f"{where} lacks '{name}', it has {', '.join(map(str, names)) or 'nothing'}"
                f": set {argument}"
            )


def _entry(row: dict[str, Any], columns: Columns, where: str) -> Entry:
    found, split = row[columns.caption], row.get(columns.split)
    texts = found if isinstance(found, list) else ["" if found is None else found]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{where}: '{columns.caption}' holds {found!r}: give text, or a list of texts"
        )
    split = split.strip() if isinstance(split, str) else split
    if split and (not isinstance(split, str) or split not in SPLIT_NAMES):
        raise UserError(
            f"{where}: '{columns.split}' holds {split!r}: give one of "
            f"{', '.join(sorted(SPLIT_NAMES))}"
        )
    return Entry(
        where, within(row[columns.image], where), texts, SPLIT_NAMES[split] if split else None
    )
