"""Files of captions in the forms that people have them in -> texts by image.

    COCO      [{"image_id": 1, "caption": "..."}], or such a list under the key `annotations`
    by image  {"1": "..."}, or {"1": ["...", "..."]}
    rows      JSON lines, CSV, TSV, Parquet with image_id and caption (or text), one or more rows an
    image files     rows with `file` in place of image_id, as `captionlab caption --out` writes
    them; for predictions only corpus    captions.parquet of data/corpora/*/ and the
    rejected.parquet beside it: all captions as published

An image_id is text: 42 and "42" are one image. A file is the image that the references call by its
name, its name without suffix, either with folders before it, or whose `file_name` that is in COCO's
JSON. Rows may have a `split`, by which to choose.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from pipeline.core.errors import UserError, one_line

FORMATS = "COCO's .json, .jsonl, .csv, .tsv or .parquet"
SHAPES = '[{"image_id": 1, "caption": "..."}], {"annotations": [...]} or {"1": ["...", "..."]}'
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


def read_predictions(
    path: Path, split: str | None = None, names: Callable[[], Mapping[str, str]] = dict
) -> dict[str, str]:
    """image_id -> its one caption; pictures that `captionlab caption` could not read have none.

    Args:
        names: gives what references call an image -> image_id (`image_names`); asked where rows
            name files.

    Raises:
        UserError: no such file, another form, an empty file, one of unread pictures alone, no rows
            of that split, two captions of an image, a file that may be either of two images.
    """
    out: dict[str, str] = {}
    rows = _chosen(_read(path), path, split)
    known = names() if any(row.file for row in rows) else {}
    for row in (_known(row, known) for row in rows):
        if len(row.texts) != 1 or row.image in out:
            raise UserError(
                f"{row.where}: image '{row.image}' has {_count(row, out)}: give one "
                "caption an image"
            )
        out[row.image] = row.texts[0]
    return out


def _known(row: Row, names: Mapping[str, str]) -> Row:
    """With the image that its file is, by as many folders as can be; a file that is none keeps its
    path: `match` reports it."""
    if not row.file:
        return row
    parts = PurePath(row.file).parts
    tails = ["/".join(parts[n:]) for n in range(len(parts))]
    called = ({tail, tail.removesuffix(PurePath(tail).suffix)} & names.keys() for tail in tails)
    images = sorted({names[name] for name in next(filter(None, called), ())})
    if len(images) > 1:
        raise UserError(
            f"{row.where}: '{row.file}' may be image '{images[0]}' or '{images[1]}': give "
            "each line its image_id"
        )
    return replace(row, image=images[0] if images else row.file)


def image_names(path: Path, references: Iterable[str]) -> dict[str, str]:
    """What files of these references' images may be called -> image_id: the ids, and every
    `file_name` of COCO's JSON."""
    names = {image: image for image in references}
    if path.suffix.lower() != ".json":
        return names
    found = json.loads(_text_of(path))
    listed = found.get("images") if isinstance(found, dict) else None
    for image in listed if isinstance(listed, list) else []:
        if (
            isinstance(image, dict)
            and {"id", "file_name"} <= set(image)
            and str(image["id"]) in names
        ):
            names.setdefault(str(image["file_name"]), str(image["id"]))
    return names


def _count(row: Row, before: Iterable[str]) -> str:
    found = len(row.texts) + (row.image in before)
    return "no prediction" if found == 0 else f"{'two' if found == 2 else found} predictions"


def read_references(path: Path, split: str | None = None) -> dict[str, list[str]]:
    """image_id -> its references, as published. Errors as for predictions; an image without
    references is one, too."""
    out: dict[str, list[str]] = {}
    for row in _corpus(path, split) or _chosen(_read(path), path, split):
        if row.file:
            raise UserError(
                f"{row.where}: references need an image_id, which a file's name is not: "
                "give each its image_id"
            )
        out.setdefault(row.image, []).extend(row.texts)
    bare = [image for image, texts in out.items() if not texts]
    if bare:
        raise UserError(
            f"{path}: image '{bare[0]}' has no references ({len(bare)} such images): add "
            "some, or leave it out"
        )
    return out


def match(
    predictions: dict[str, str], references: dict[str, list[str]], partial: bool
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Both for the same images, sorted by image_id.

    Raises:
        UserError: a prediction for an image without references; an image without prediction, unless
            `partial`.
    """
    unknown = sorted(predictions.keys() - references.keys())
    if unknown:
        first = f"the first is '{unknown[0]}', an image with references is '{min(references)}'"
        raise UserError(
            f"{len(unknown)} of {len(predictions)} predictions are for images without "
            f"references: {first}"
        )
    missing = sorted(references.keys() - predictions.keys())
    if missing and not partial:
        what = (
            f"{len(missing)} of {len(references)} images have no prediction, the first is "
            f"'{missing[0]}'"
        )
        raise UserError(
            f"{what}: --partial scores the others, --split chooses images by a column `split`"
        )
    images = sorted(predictions)
    return {i: predictions[i] for i in images}, {i: references[i] for i in images}


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


def _chosen(rows: list[Row], path: Path, split: str | None) -> list[Row]:
    if split is None:
        return rows
    there = sorted({row.split for row in rows if row.split})
    if not there:  # predictions need not say it again
        return rows
    if split not in there:
        raise UserError(f"{path} has no rows of split '{split}': there are {', '.join(there)}")
    return [row for row in rows if row.split == split]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _json(path: Path) -> Iterator[Row]:
    text = _text_of(path)
    if not text.strip():
        return
    found = _parse(text, str(path), "name a file of JSON lines .jsonl")
    if isinstance(found, dict) and isinstance(found.get("annotations"), list):
        listed = found.get("images")
        for image in listed if isinstance(listed, list) else []:
            if (
                isinstance(image, dict) and "id" in image
            ):  # one without annotations is to be noticed
                yield Row(str(path), _image(image["id"], str(path)), [], image.get("split"))
        yield from _rows(found["annotations"], f"{path}, annotations")
    elif isinstance(found, dict):
        for image, texts in found.items():
            where = f"{path}, key '{image}'"
            yield Row(where, image, _texts(texts, where), None)
    elif isinstance(found, list):
        yield from _rows(found, str(path))
    else:
        raise UserError(f"{path}: expected {SHAPES}, found {_kind(found)}")


def _rows(found: list[Any], where: str) -> Iterator[Row]:
    for number, row in enumerate(found):
        yield _row(row, f"{where}, item {number}")


def _lines(path: Path) -> Iterator[Row]:
    lines = [
        (f"{path}, line {n}", line)
        for n, line in enumerate(_text_of(path).split("\n"), 1)
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
        io.StringIO(_text_of(path), newline=""), delimiter=delimiter, strict=True
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


def _corpus(path: Path, split: str | None) -> list[Row]:
    """The rows of a corpus of this project, with the captions that were set aside for training
    only; [] for other files."""
    from pyarrow import ArrowException, parquet

    try:
        names = (
            parquet.read_schema(path).names if path.suffix == ".parquet" and path.is_file() else []
        )
    except (ArrowException, OSError):
        return []
    if not {"image_id", "caption_id", "raw", "split"} <= set(names):
        return []
    import pandas as pd

    from pipeline.data.corpus import published_references

    captions, rejected = pd.read_parquet(path), path.with_name("rejected.parquet")
    aside = pd.read_parquet(rejected) if rejected.is_file() else captions.head(0).assign(reason="")
    splits = sorted(captions["split"].unique())
    if split is not None and split not in splits:
        raise UserError(f"{path} has no rows of split '{split}': there are {', '.join(splits)}")
    found = published_references(captions, aside, [split] if split else splits)
    return [Row(str(path), image, texts, split) for image, texts in found.items()]


def _row(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
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
    whole = int(found) if isinstance(found, float) and found.is_integer() else found
    if isinstance(whole, bool) or not isinstance(whole, str | int):
        raise UserError(f"{where}: an image_id is a number or a text, found {_kind(found)}")
    return str(whole)


def _texts(found: Any, where: str) -> list[str]:
    texts = found if isinstance(found, list) else [found]
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
