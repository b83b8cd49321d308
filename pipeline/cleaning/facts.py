"""The facts that expectations on a corpus check: facts of single rows, and facts that require all
rows.

Equal texts, images and pictures are found by digests, so little more than numbers is held for all
rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cleaning.clean import DIGEST, clean_text, digest
from pipeline.cleaning.image_check import Picture, looks_of
from pipeline.data.corpus import COLUMNS, ROWS, rows_of
from pipeline.experiment.params import Corpus

FACTS = [
    "images_in_split",
    "captions_of_image",
    "splits_of_image",
    "splits_of_picture",
    "splits_of_text",
]


@dataclass(frozen=True)
class Facts:
    """Facts that require all rows."""

    table: pd.DataFrame
    "Per row: FACTS, split, and caption_id as the number of the first row that has it."
    images: dict[str, int]
    "Number of images by split."
    usual: int
    "Number of captions that most images were published with."


def facts_of(captions: Path, rejected: pd.DataFrame, pictures: Mapping[str, Picture]) -> Facts:
    """Return the facts of a corpus that require all rows.

    Args:
        captions: the captions.parquet of the corpus.
        rejected: the rows that were set aside.
        pictures: what was seen of each picture, by image_id.
    """
    split = pd.concat(
        [part["split"].astype("category") for part in rows_of(captions, ["split"])],
        ignore_index=True,
    )
    split = split.astype("category")
    splits = split.cat.codes.to_numpy()
    caption, first = _numbers(_texts(captions, "caption_id"))
    table = pd.DataFrame({"caption_id": _known(first, caption), "split": split})
    del caption, first
    set_aside = rejected["image_id"][rejected["raw"].fillna("").str.strip() != ""]
    everything, _ = _numbers(chain(_texts(captions, "image_id"), set_aside))
    published = _small(np.bincount(everything[everything >= 0], minlength=1))
    image = everything[: len(splits)]
    in_splits = _in_splits(image, splits)
    images = np.array([there.sum() for there in in_splits])
    table["images_in_split"] = _known(images, splits)
    table["captions_of_image"] = _known(published, image)
    several = sum(in_splits, np.zeros(1, np.uint8))
    usual = usual_count(published[: len(several)][several > 0])
    table["splits_of_image"] = _known(several, image)
    del everything, image, in_splits, several, published
    pixels = (
        look.digest
        for part in rows_of(captions, ["image_id"])
        for look in looks_of(pictures, part["image_id"])
    )
    table["splits_of_picture"] = _splits(_numbers(pixels)[0], splits)
    table["splits_of_text"] = _splits(_numbers(_texts(captions, "text"))[0], splits)
    return Facts(
        table,
        {str(name): int(n) for name, n in zip(split.cat.categories, images, strict=False)},
        usual,
    )


def _texts(captions: Path, column: str) -> Iterator[str | None]:
    return (
        text if isinstance(text, str) else None
        for part in rows_of(captions, [column])
        for text in part[column]
    )


def _numbers(texts: Iterable[str | None]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the number of each text, and the first row of each number.

    Equal texts have equal numbers, from 0; None has -1. The digests lie in a temporary file. Those
    of about `ROWS` rows are sorted at a time: those that begin with the same byte or with bytes
    near it.
    """
    with TemporaryFile() as file:
        absent = bytearray()
        for text in texts:
            file.write(digest(text or ""))
            absent.append(text is None)
        file.flush()
        none = np.frombuffer(absent, bool)
        numbers, first = np.full(len(none), -1, np.int32), [np.empty(0, np.int32)]
        found = np.memmap(file, f"S{DIGEST}", "r") if len(none) else np.empty(0, f"S{DIGEST}")
        begins = found.view(np.uint8)[::DIGEST].astype(np.uint16)
        groups = min(256, 1 + len(none) // ROWS)
        count = 0
        for group in range(groups):
            rows = np.flatnonzero((begins * groups >> 8 == group) & ~none).astype(np.int32)
            order = np.argsort(found[rows], kind="stable")
            rows = rows[order]
            here = found[rows]
            news = np.append(True, here[1:] != here[:-1])[: len(rows)]
            numbers[rows] = count - 1 + np.cumsum(news, dtype=np.int32)
            first.append(rows[news])
            count += len(first[-1])
    return numbers, np.concatenate(first)


def _in_splits(
    groups: NDArray[np.int32], splits: NDArray[np.integer[Any]]
) -> list[NDArray[np.bool_]]:
    """Return, for each split, whether it has a row of each group. Rows without a group or split are
    left out."""
    found = []
    for split in range(int(splits.max(initial=0)) + 1):
        there = np.zeros(int(groups.max(initial=0)) + 1, bool)
        there[groups[(splits == split) & (groups >= 0)]] = True
        found.append(there)
    return found


def _splits(groups: NDArray[np.int32], splits: NDArray[np.integer[Any]]) -> pd.Series:
    """Return, per row, how many splits its group has."""
    return _known(sum(_in_splits(groups, splits), np.zeros(1, np.uint8)), groups)


def _small(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers, none of which is negative, in the smallest type that holds them all."""
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)))


def _known(numbers: NDArray[Any], rows: NDArray[np.integer[Any]]) -> pd.Series:
    """Return the number of each row's group; NaN for a row without a group (-1)."""
    if rows.min(initial=0) >= 0:
        return pd.Series(_small(numbers)[rows])
    return pd.Series(np.where(rows >= 0, np.append(_small(numbers), 0)[rows], np.nan))


def usual_count(captions: NDArray[np.integer[Any]]) -> int:
    """Return how many captions most images have; of equally frequent counts, the smallest.

    Args:
        captions: (N,) number of captions of each image.
    """
    return int(np.bincount(captions, minlength=2)[1:].argmax()) + 1


def with_helpers(
    captions: Path, facts: pd.DataFrame, pictures: Mapping[str, Picture], options: Corpus
) -> Iterator[pd.DataFrame]:
    """Yield the captions with one column for each fact that an expectation on rows needs."""
    start = 0
    for rows in rows_of(captions, COLUMNS):
        looks = looks_of(pictures, rows["image_id"])
        own = {
            "words": rows["text"].map(lambda text: len(text.split()), na_action="ignore"),
            "cleaned": rows["raw"].map(lambda raw: clean_text(raw, options), na_action="ignore"),
            "problem": pd.Series([look.problem for look in looks], rows.index, dtype=object),
            "pixels": pd.Series([look.digest for look in looks], rows.index, dtype=object),
        }
        of_all = facts[FACTS].iloc[start : start + len(rows)].set_axis(rows.index)
        yield rows.assign(**own, **of_all)
        start += len(rows)
