"""The captions of a corpus: tables read whole or in pieces, and the data taken from them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.data.checked import check_columns, need_columns, read_table, readable

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

COLUMNS = ["image_id", "caption_id", "raw", "text", "split"]
SPLITS = ["train", "val", "test"]
# Number of test images, spread evenly over the ids, that the report shows for every system.
SPREAD = 6
# Reasons for rejecting a caption that also bar it from being a reference. `not in` precedes a
# script.
NO_REFERENCE = r"undecodable$|empty$|not in "
# Number of rows of a table that are held at once.
ROWS = 25_000


def read_captions(path: Path, columns: list[str] = COLUMNS) -> pd.DataFrame:
    """Return columns of a corpus's captions.parquet.

    Raises:
        UserError: the file does not exist, is not Parquet, or lacks a column; or a text is not
            valid.
    """
    return read_table(path, columns)


def read_rejected(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return columns of a corpus's rejected.parquet. A caption whose image is in no split has an
    empty `split`.

    Raises:
        UserError: the file does not exist, is not Parquet, or lacks a column; or a text is not
            valid.
    """
    return read_table(path, columns, whole=[])


def columns_of(path: Path, needed: list[str]) -> list[str]:
    """Return the names of all columns of a Parquet file.

    Raises:
        UserError: the file does not exist, is not Parquet, or lacks a column that is needed.
    """
    with _opened(path) as file:
        names: list[str] = file.schema_arrow.names
    need_columns(names, needed, path)
    return names


def rows_of(path: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Yield columns of a Parquet file, `ROWS` rows at a time. A file without rows gives one empty
    table."""
    import pyarrow as pa

    with _opened(path) as file:
        need_columns(file.schema_arrow.names, columns, path)
        batches = file.iter_batches(ROWS, columns=columns, use_threads=False)
        while True:
            with readable(path):
                batch = next(batches, None)
            if batch is None:
                break
            yield pa.Table.from_batches([batch]).to_pandas()[columns]
        if not file.metadata.num_rows:
            yield file.schema_arrow.empty_table().to_pandas()[columns]


def _opened(path: Path) -> "ParquetFile":
    from pyarrow.parquet import ParquetFile

    with readable(path):
        return ParquetFile(path, buffer_size=2**16, pre_buffer=False)


def spread(image_ids: Iterable[str], n: int) -> list[str]:
    """Return at most n of the images, spread evenly over their sorted ids. People are shown these
    images of a split."""
    ids = sorted(set(image_ids))
    n = min(n, len(ids))
    return [ids[(2 * i + 1) * len(ids) // (2 * n)] for i in range(n)]


class Captions:
    """Columns of a corpus's captions.parquet, for the rows in some splits. Every iteration starts
    anew and yields one table at a time.

    Raises:
        UserError: as in `read_captions`, during an iteration.
    """

    def __init__(self, path: Path, splits: Iterable[str], columns: list[str]) -> None:
        self._path, self._splits, self._columns = path, set(splits), columns

    def __iter__(self) -> Iterator[pd.DataFrame]:
        for rows in rows_of(self._path, list(dict.fromkeys([*self._columns, "split"]))):
            check_columns(rows, self._path)
            yield rows.loc[rows["split"].isin(self._splits), self._columns]

    def __getitem__(self, column: str) -> "Column":
        return Column(self, column)


@dataclass(frozen=True)
class Column:
    """The values of a column, one by one. Every iteration starts at the first value."""

    captions: Captions
    name: str

    def __iter__(self) -> Iterator[str]:
        return (value for rows in self.captions for value in rows[self.name])


def references(captions: Iterable[pd.DataFrame]) -> dict[str, list[str]]:
    """Return image_id -> the texts of its captions, both in the order of the rows."""
    found: dict[str, list[str]] = {}
    for rows in captions:
        for image, text in zip(rows["image_id"], rows["text"], strict=True):
            found.setdefault(image, []).append(text)
    return found


def published_references(
    captions: pd.DataFrame, rejected: pd.DataFrame, splits: list[str]
) -> dict[str, list[str]]:
    """Return image_id -> all its captions as published, ordered by image and caption. Only images
    that were kept in these splits are included.

    A caption that is too long to train on is still a reference: papers score against all five.
    """
    unusable = rejected["reason"].str.match(NO_REFERENCE)
    usable = rejected["raw"].notna() & ~unusable
    rows = pd.concat([captions, rejected[usable & rejected["image_id"].isin(captions["image_id"])]])
    rows = rows[rows["split"].isin(splits)].sort_values(["image_id", "caption_id"])
    return {str(image): list(group["raw"]) for image, group in rows.groupby("image_id")}
