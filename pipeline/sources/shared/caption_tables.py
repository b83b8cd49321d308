"""Tables of captions in the formats that users have: CSV, TSV, JSON lines, Parquet and COCO's JSON.

Data sets (`sources/folder.py`) and scoring (`captionlab score`) share this reader. Ambiguous input
is refused with one line that names the file and row: a column or key that occurs twice, a line with
more or fewer fields than the header, UTF-16, or an image with two names.
"""

import csv
import io
import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from pipeline.core.errors import UserError, one_line

# Bytes of the largest file of captions. COCO's have 70,000,000.
LARGEST = 2_000_000_000
QUOTES = "put a caption that holds the delimiter in double quotes"


class Line(NamedTuple):
    where: str
    "File and line or row, for messages."
    cells: dict[str, Any]
    "Values by column or key."


class CocoImage(NamedTuple):
    about: dict[str, Any]
    """The image's entry in `images`: id, file_name, split and others. If it has no entry, its id is
    its file_name."""
    captions: list[str]


def content_of(path: Path) -> bytes:
    """Return the bytes of a file of captions, which is read as a whole.

    Raises:
        UserError: it is larger than `LARGEST`.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(
            f"{path} has {size:,} bytes, more than the {LARGEST:,} that are read at once: save its "
            "captions as Parquet"
        )
    return path.read_bytes()


def decoded(data: bytes, where: str) -> str:
    """Decode UTF-8 text with or without a byte order mark.

    Bytes that are not UTF-8 become lone surrogates (`surrogateescape`).

    Raises:
        UserError: the text is UTF-16, as spreadsheets save "Unicode text".
    """
    start = data[:16]
    zeros = len(start) >= 4 and (not any(start[::2]) or not any(start[1::2]))
    if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or zeros:
        raise UserError(f"{where} is UTF-16: save it as UTF-8")
    return data.removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape")


def parse_json(text: str, where: str, hint: str = "", drop: Set[str] = frozenset()) -> Any:
    """Parse a JSON value; keys in `drop` are not kept in memory.

    Raises:
        UserError: the text is not JSON, or an object has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = _twice(key for key, _ in pairs)
            raise UserError(
                f"{where}: '{twice}' occurs twice: give one caption an image, or a list of captions"
            )
        return {key: value for key, value in pairs if key not in drop} if drop else found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}{hint and f' ({hint})'}") from None


def _twice(names: Any) -> str:
    return str(next(name for name, count in Counter(names).items() if count > 1))


def header_of(names: list[str], used: Collection[str], where: str) -> list[str]:
    """Return the names without surrounding blanks.

    Raises:
        UserError: a column in `used` occurs twice.
    """
    names = [name.strip() for name in names]
    doubled = [name for name in used if names.count(name) > 1]
    if doubled:
        raise UserError(f"{where} has the column '{doubled[0]}' twice: take one of them out")
    return names


def read_delimited(
    text: str, path: Path, used: Collection[str]
) -> tuple[list[str], Iterator[Line]]:
    """Return the header of a CSV or TSV file ([] for an empty file), and its lines.

    Args:
        text: content of the file; empty lines are skipped.
        used: columns that the caller needs. Two other columns may have the same name.

    Raises:
        UserError: a column in `used` occurs twice. While lines are read: a line has another number
            of fields than the header, or broken quotes.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    with_errors = _csv_errors(reader, path)
    header = header_of(next(with_errors, (0, []))[1], used, str(path))
    return header, _lines_of(with_errors, header, path)


def _csv_errors(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each record."""
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}: correct the quotes there"
        ) from None


def _lines_of(
    records: Iterator[tuple[int, list[str]]], header: list[str], path: Path
) -> Iterator[Line]:
    for number, fields in records:
        where = f"{path}, line {number}"
        if fields and len(fields) != len(header):
            raise UserError(
                f"{where}: {len(fields)} fields where the header has {len(header)}: {QUOTES}"
            )
        if fields:
            yield Line(where, dict(zip(header, fields, strict=True)))


def read_json_lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place and the value of each line that is not empty. Errors are those of
    `parse_json`."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parse_json(line, where, "each line is an object of its own")


def read_parquet(path: Path, used: Collection[str]) -> tuple[list[str], Iterator[Line]]:
    """Return the columns of a Parquet file, and its rows with the columns in `used` only.

    Raises:
        UserError: the file is empty or not Parquet, or a column in `used` occurs twice.
    """
    from pyarrow import ArrowException, parquet

    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    try:
        names = header_of(parquet.read_schema(path).names, used, str(path))
        table = parquet.read_table(path, columns=[name for name in names if name in used])
        rows = table.to_pylist()
    except (ArrowException, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {one_line(error)}") from None
    return names, (Line(f"{path}, row {number}", row) for number, row in enumerate(rows))


def image_id(found: Any, where: str) -> str:
    """Return an image_id as text: 42, 42.0 and "42" are one image.

    Raises:
        UserError: it is neither a number nor text.
    """
    found = found.item() if hasattr(found, "item") else found  # a numpy scalar
    whole = int(found) if isinstance(found, float) and found.is_integer() else found
    if isinstance(whole, bool) or not isinstance(whole, str | int):
        raise UserError(f"{where}: an image_id is a number or a text, found {kind(found)}")
    return str(whole)


def coco_images(listed: Any, where: str) -> dict[str, dict[str, Any]]:
    """Return image_id -> entry in the list `images` of COCO's JSON.

    Raises:
        UserError: an id occurs twice, with different files or splits.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, image in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(image, dict) and "id" in image:
            place = f"{where}, images, item {number}"
            name = image_id(image["id"], place)
            other = found.setdefault(name, image)
            differs = [key for key in ("file_name", "split") if image.get(key) != other.get(key)]
            if differs:
                raise UserError(
                    f"{place}: image {name} occurs twice, with the {differs[0]} "
                    f"{other.get(differs[0])!r} and {image.get(differs[0])!r}: give each its own id"
                )
    return found


def coco_captions(content: Any, where: str) -> dict[str, CocoImage]:
    """Return image_id -> entry and captions.

    The order is that of `images`; images that only captions name come last.

    Raises:
        UserError: the content is not that of a COCO captions file, or an id stands for two images.
    """
    try:
        listed, annotations = list(content["images"]), list(content["annotations"])
        for image in listed:
            _text(image["file_name"]), image["id"]
    except (KeyError, TypeError) as error:
        raise _no_coco(where, error) from None
    images = {name: CocoImage(about, []) for name, about in coco_images(listed, where).items()}
    for number, found in enumerate(annotations):
        try:
            given, caption = found["image_id"], _text(found["caption"])
        except (KeyError, TypeError) as error:
            raise _no_coco(where, error) from None
        name = image_id(given, f"{where}, annotations, item {number}")
        unlisted = CocoImage({"id": given, "file_name": name}, [])
        images.setdefault(name, unlisted).captions.append(caption)
    return images


def _no_coco(where: str, error: Exception) -> UserError:
    expected = "images[].id and .file_name, annotations[].image_id and .caption"
    return UserError(f"{where} is no COCO captions file: expected {expected} ({error!r})")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def near_miss(names: Iterable[str], known: Iterable[str]) -> str:
    """Return a hint if a name looks like a known one but differs from it in case or Unicode form;
    else ''."""
    there = set(known)
    for form, says in FORMS.items():
        alike = {form(name): name for name in there}
        for name in names:
            if (other := alike.get(form(name), name)) != name and name not in there:
                return f" ('{name}' and '{other}' differ in {says} only)"
    return ""


FORMS: dict[Callable[[str], str], str] = {
    str.casefold: "case",
    lambda name: normalize("NFC", name): "the Unicode form of a letter (NFC, NFD)",
    lambda name: normalize("NFC", name).casefold(): "case and the Unicode form of a letter",
}


def kind(value: Any) -> str:
    """Return what a JSON value is in words, for messages."""
    if isinstance(value, dict):
        keys = ", ".join(map(str, list(value)[:4]))
        return f"an object with the keys {keys}" if value else "an empty object"
    kinds = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
