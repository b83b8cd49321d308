"""Predictions and references -> texts by image, of the same images.

A file of a picture is the image that the references call by its name, by its name without suffix,
or by either with folders before it; or the image whose `file_name` it is in COCO's JSON.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from captionlab.caption_files import Row, read_rows, text_of
from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from captionlab.caption_files import Source


def read_predictions(
    source: "Source", split: str | None = None, names: Callable[[], Mapping[str, str]] = dict
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
    rows = _chosen(read_rows(source, "predictions"), _name(source, "predictions"), split)
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


def image_names(source: "Source", references: Iterable[str]) -> dict[str, str]:
    """What files of these references' images may be called -> image_id: the ids, and every
    `file_name` of COCO's JSON."""
    names = {image: image for image in references}
    path = _path(source)
    is_json = path is not None and path.suffix.lower() == ".json"
    found = json.loads(text_of(path)) if path and is_json else source
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


def read_references(source: "Source", split: str | None = None) -> dict[str, list[str]]:
    """image_id -> its references, as published. Errors as for predictions; an image without
    references is one, too."""
    path, name = _path(source), _name(source, "references")
    out: dict[str, list[str]] = {}
    for row in (path and _corpus(path, split)) or _chosen(
        read_rows(source, "references"), name, split
    ):
        if row.file:
            raise UserError(
                f"{row.where}: references need an image_id, which a file's name is not: "
                "give each its image_id"
            )
        out.setdefault(row.image, []).extend(row.texts)
    bare = [image for image, texts in out.items() if not texts]
    if bare:
        raise UserError(
            f"{name}: image '{bare[0]}' has no references ({len(bare)} such images): add "
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
            f"{what}: the option partial scores the others, split chooses images by a "
            "column `split`"
        )
    images = sorted(predictions)
    return {i: predictions[i] for i in images}, {i: references[i] for i in images}


def _path(source: "Source") -> Path | None:
    return Path(source) if isinstance(source, str | os.PathLike) else None


def _name(source: "Source", otherwise: str) -> str:
    """What messages call it."""
    return str(_path(source) or otherwise)


def _chosen(rows: list[Row], name: str, split: str | None) -> list[Row]:
    if split is None:
        return rows
    there = sorted({row.split for row in rows if row.split})
    if not there:  # predictions need not say it again
        return rows
    if split not in there:
        raise UserError(f"{name} has no rows of split '{split}': there are {', '.join(there)}")
    return [row for row in rows if row.split == split]


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
