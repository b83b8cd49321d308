"""Read predictions and references as texts by image, and match them by image.

A prediction may name a picture's file in place of an image_id. The file belongs to the image whose
image_id is the file's name, with or without its suffix and the folders before it. The `file_name`
of COCO's JSON counts as an image_id here.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from captionlab.caption_files import Row, read_rows, text_of
from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.sources.shared.caption_tables import coco_images, near_miss

if TYPE_CHECKING:
    from captionlab.caption_files import Source


def read_predictions(
    source: "Source", split: str | None = None, names: Callable[[], Mapping[str, str]] = dict
) -> dict[str, str]:
    """Return image_id -> caption, without the pictures that `captionlab caption` could not read.

    Args:
        names: returns the names that references use for images -> image_id (see `image_names`).
            It is called only if rows name files.

    Raises:
        UserError: there is no such file, its format is not known, it is empty, or it holds only
            unread pictures; no row is of that split; an image does not have exactly one caption;
            a file may belong to either of two images.
    """
    rows = _chosen(read_rows(source, "predictions"), _name(source, "predictions"), split)
    return _predictions(rows, names)


def _predictions(rows: list[Row], names: Callable[[], Mapping[str, str]]) -> dict[str, str]:
    out: dict[str, str] = {}
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
    """Return the row with the image that its file belongs to.

    The match with the most folders counts. Without any match, the path stands for the image, and
    `match` reports it.
    """
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


def image_names(source: "Source", references: Iterable[str]) -> dict[str, str]:
    """Return names that files may have -> image_id, for the images of these references.

    The names are the ids themselves, and every `file_name` of COCO's JSON.
    """
    names = {image: image for image in references}
    path = _path(source)
    is_json = path is not None and path.suffix.lower() == ".json"
    found = json.loads(text_of(path)) if path and is_json else source
    listed = found.get("images") if isinstance(found, dict) else None
    for image, about in coco_images(listed, _name(source, "references")).items():
        if image in names and "file_name" in about:
            names.setdefault(str(about["file_name"]), image)
    return names


def _count(row: Row, before: Iterable[str]) -> str:
    found = len(row.texts) + (row.image in before)
    return "no prediction" if found == 0 else f"{'two' if found == 2 else found} predictions"


@dataclass(frozen=True)
class Caller:
    """The names that messages use for options: Python and each command have their own."""

    partial: str = "partial=True"
    split: str = "split="
    synonyms: str = "synonyms=FILE"
    instances: str = "instances=[FILE]"


PYTHON = Caller()
COMMAND = Caller("--partial", "--split", "--synonyms FILE", "--instances FILE")
# The compare command has no options for files of objects.
COMPARE = Caller("--partial", "--split", "--synonyms FILE to captionlab score")


def read_references(
    source: "Source", split: str | None = None, partial: bool = False, caller: Caller = PYTHON
) -> dict[str, list[str]]:
    """Return image_id -> references, as published.

    Raises:
        UserError: there is no such file, its format is not known, or it is empty; no row is of that
            split; a row names a file in place of an image_id; or an image has no references, unless
            `partial` and others have some.
    """
    rows, name = _reference_rows(source, split), _name(source, "references")
    return _references(_chosen(rows, name, split), name, partial, caller)


def _reference_rows(source: "Source", split: str | None) -> list[Row]:
    path = _path(source)
    return (_corpus(path, split) if path else []) or read_rows(source, "references")


def _references(rows: list[Row], name: str, partial: bool, caller: Caller) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for row in rows:
        if row.file:
            raise UserError(
                f"{row.where}: references need an image_id, which a file's name is not: "
                "give each its image_id"
            )
        out.setdefault(row.image, []).extend(row.texts)
    bare = [image for image, texts in out.items() if not texts]
    if bare and (not partial or len(bare) == len(out)):
        raise UserError(
            f"{name}: image '{bare[0]}' has no references ({len(bare)} such images): add "
            f"some, leave it out, or score the others with {caller.partial}"
        )
    return {image: texts for image, texts in out.items() if texts}


def read_both(
    predictions: "Source",
    references: "Source",
    split: str | None,
    partial: bool,
    caller: Caller = PYTHON,
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return predictions and references, of one split if it is named.

    Raises:
        UserError: as from each side; or a split is asked for, but no row of either side has one.
    """
    meant, said = _reference_rows(references, split), read_rows(predictions, "predictions")
    names = _name(predictions, "predictions"), _name(references, "references")
    if split is not None and not any(row.split for row in (*meant, *said)):
        raise UserError(
            f"split '{split}' chooses nothing: neither {names[0]} nor {names[1]} has a column "
            f"`split`: name it so, or leave {caller.split} out"
        )
    known = _references(_chosen(meant, names[1], split), names[1], partial, caller)
    chosen = _chosen(said, names[0], split)
    return _predictions(chosen, lambda: image_names(references, known)), known


def match(
    predictions: dict[str, str],
    references: dict[str, list[str]],
    partial: bool,
    named: "tuple[Source, Source]" = ({}, {}),
    caller: Caller = PYTHON,
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return both for the images that have both, sorted by image_id.

    Args:
        named: where both were read from, for messages.
        caller: the names that messages use for `partial` and `split`.

    Raises:
        UserError: no image has both; or, unless `partial`, an image has only a prediction or only
            references.
    """
    said, meant = map(_path, named)
    of_said, of_meant = f"{said}: " if said else "", f" of {meant}" if meant else ""
    unknown = sorted(predictions.keys() - references.keys())
    images = sorted(predictions.keys() & references.keys())
    if unknown and (not partial or not images):
        others = f", or score the others with {caller.partial}" if images else ""
        cure = near_miss(unknown, references) or f": leave them out{others}"
        raise UserError(
            f"{of_said}{len(unknown)} of {len(predictions)} predictions are for images without "
            f"references{f' in {meant}' if meant else ''}: the first is '{unknown[0]}', an image "
            f"with references is '{min(references)}'{cure}"
        )
    missing = sorted(references.keys() - predictions.keys())
    if missing and not partial:
        raise UserError(
            f"{of_said}{len(missing)} of {len(references)} images{of_meant} have no prediction, "
            f"the first is '{missing[0]}': {caller.partial} scores the others, {caller.split} "
            "chooses images by a column `split`"
        )
    return {i: predictions[i] for i in images}, {i: references[i] for i in images}


def _path(source: "Source") -> Path | None:
    return Path(source) if isinstance(source, str | os.PathLike) else None


def _name(source: "Source", otherwise: str) -> str:
    """Return the name that messages use for the source."""
    return str(_path(source) or otherwise)


def _chosen(rows: list[Row], name: str, split: str | None) -> list[Row]:
    """Return the rows of the images of a split.

    If no row names a split, all rows are returned: predictions need not repeat the splits of the
    references.

    Raises:
        UserError: no image is of that split, or an image is of two splits.
    """
    split_of: dict[str, str] = {}
    for row in rows if split is not None else ():
        if row.split and split_of.setdefault(_image(row), row.split) != row.split:
            raise UserError(
                f"{row.where}: image '{_image(row)}' is of split '{row.split}' and of "
                f"'{split_of[_image(row)]}': leave it in one"
            )
    if not split_of:
        return rows
    if split not in split_of.values():
        there = sorted(set(split_of.values()))
        raise _no_split(name, split, there)
    return [row for row in rows if split_of.get(_image(row)) == split]


def _no_split(name: str, split: str | None, there: list[str]) -> UserError:
    return UserError(
        f"{name} has no rows of split '{split}'{nearest(split, there)}: there are "
        f"{', '.join(there)}"
    )


def _image(row: Row) -> str:
    return row.file or row.image


def _corpus(path: Path, split: str | None) -> list[Row]:
    """Return the rows of a corpus of this project; [] for other files.

    The rows include captions that are excluded from training only.
    """
    from pyarrow import ArrowException, parquet

    try:
        names = (
            parquet.read_schema(path).names if path.suffix == ".parquet" and path.is_file() else []
        )
    except (ArrowException, OSError):
        return []
    if not {"image_id", "caption_id", "raw", "split"} <= set(names):
        return []
    from pipeline.data.checked import read_table
    from pipeline.data.corpus import published_references, read_rejected

    captions, rejected = read_table(path), path.with_name("rejected.parquet")
    columns = ["image_id", "caption_id", "raw", "split", "reason"]
    aside = (
        read_rejected(rejected, columns)
        if rejected.is_file()
        else captions.head(0).assign(reason="")
    )
    splits = sorted(captions["split"].unique())
    if split is not None and split not in splits:
        raise _no_split(str(path), split, splits)
    found = published_references(captions, aside, [split] if split else splits)
    return [Row(str(path), image, texts, split) for image, texts in found.items()]
