"""The facts that expectations on a corpus check: facts of single rows, and facts that require all
rows.

Equal texts, images and pictures are found by digests, so little more than numbers is held for all
rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cleaning.clean import clean_text, digests
from pipeline.cleaning.image_check import Picture, looks_of
from pipeline.data.corpus import COLUMNS, rows_of
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
    published, image = np.bincount(everything[everything >= 0]), everything[: len(splits)]
    del everything
    pairs, several = _distinct(image, splits)
    images = np.bincount(pairs % several, minlength=several)
    table["images_in_split"] = _known(images, splits)
    table["captions_of_image"] = _known(np.append(published, 0), image)
    usual = usual_count(published[np.unique(image[image >= 0])])
    table["splits_of_image"] = _splits(image, splits)
    del image, pairs
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


def _numbers(texts: Iterable[str | None]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the number of each text, and the first row of each number.

    Equal texts have equal numbers, from 0; None has -1.
    """
    absent = bytearray()

    def present() -> Iterator[str]:
        for text in texts:
            absent.append(text is None)
            yield text or ""

    found = digests(present())
    order = np.argsort(found)
    found = found[order]
    news = np.append(True, found[1:] != found[:-1])[: len(found)]
    del found
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.cumsum(news, dtype=np.int32) - 1
    first = np.minimum.reduceat(order, np.flatnonzero(news)) if len(order) else order
    numbers[np.frombuffer(absent, bool)] = -1
    return numbers, first


def _distinct(
    groups: NDArray[np.int32], splits: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int64], int]:
    """Return the distinct pairs of a row's group and split, and the number of splits.

    A pair is the number group x splits + split. Rows without a group or split are left out.
    """
    several = int(splits.max(initial=0)) + 1
    pairs = groups.astype(np.int64)
    pairs *= several
    pairs += splits
    if min(groups.min(initial=0), splits.min(initial=0)) < 0:
        pairs = pairs[(groups >= 0) & (splits >= 0)]
    pairs.sort()
    return pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]], several


def _splits(groups: NDArray[np.int32], splits: NDArray[np.integer[Any]]) -> pd.Series:
    """Return, per row, how many splits its group has."""
    pairs, several = _distinct(groups, splits)
    counts = np.bincount(pairs // several, minlength=int(groups.max(initial=0)) + 1)
    return _known(counts, groups)


def _known(numbers: NDArray[Any], rows: NDArray[np.integer[Any]]) -> pd.Series:
    """Return the number of each row's group; NaN for a row without a group (-1)."""
    small = numbers.astype(np.min_scalar_type(numbers.max(initial=0)))[rows]
    return pd.Series(small if rows.min(initial=0) >= 0 else np.where(rows >= 0, small, np.nan))


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
