"""captions.parquet of a data set: captions as published, in the order in which they were read."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.files import write_json

if TYPE_CHECKING:
    import pyarrow as pa

# Returns image_id -> split for given images.
SplitOf = Callable[[Iterable[str]], dict[str, str]]

_HALF = re.compile("[\ud800-\udfff]")
# Number of captions that a `CaptionWriter` holds before it writes them.
PART = 25_000


@dataclass(frozen=True)
class Row:
    """One caption as published."""

    image_id: str
    "Id of the image. The publisher may name an image that is missing from the shards."
    number: int
    "Number of the caption; its caption_id is `<image_id>#<number>`."
    raw: str
    undecodable: bool = False
    """Whether the text had bytes that are not UTF-8, or half characters of JSON. `raw` shows them
    as backslash escapes."""


def make_row(image_id: str, number: int, text: str) -> Row:
    """Return the row of a text that was read with `surrogateescape` or from JSON."""
    return Row(printable(image_id), number, printable(text), bool(_HALF.search(text)))


def printable(text: str) -> str:
    """Return text that can be written as UTF-8: lone surrogates become backslash escapes.

    Lone surrogates come from bytes read with `surrogateescape`, and from half characters of JSON.
    """
    return _HALF.sub(
        lambda m: (
            f"\\x{ord(m[0]) - 0xDC00:02x}"
            if "\udc80" <= m[0] <= "\udcff"
            else f"\\u{ord(m[0]):04x}"
        ),
        text,
    )


def write_index(
    folder: Path,
    rows: Sequence[Row],
    schemes: dict[str, dict[str, str]],
    manifest: Mapping[str, object],
) -> None:
    """Write captions.parquet and manifest.json; rows keep their order.

    Args:
        schemes: split scheme -> image_id -> split; an image without a split is left out.
    """
    from pyarrow import parquet

    parquet.write_table(_table(rows, schemes), folder / "captions.parquet")
    write_json(folder / "manifest.json", manifest)


def _table(rows: Sequence[Row], schemes: Mapping[str, Mapping[str, str]]) -> "pa.Table":
    import pyarrow as pa

    columns = {
        "image_id": pa.array([row.image_id for row in rows], pa.string()),
        "caption_id": pa.array([f"{row.image_id}#{row.number}" for row in rows], pa.string()),
        "raw": pa.array([row.raw for row in rows], pa.string()),
        "undecodable": pa.array([row.undecodable for row in rows], pa.bool_()),
    }
    for scheme, split_of in schemes.items():
        columns[f"split_{scheme}"] = pa.array(
            [split_of.get(row.image_id) for row in rows], pa.string()
        )
    return pa.table(columns)


class CaptionWriter:
    """Writes captions.parquet in parts, so that memory does not grow with the captions. The file is
    complete when the block ends."""

    def __init__(self, folder: Path, schemes: Mapping[str, SplitOf]) -> None:
        """Begin the file in `folder`.

        Args:
            schemes: split scheme -> a function that returns image_id -> split for given images. It
                leaves out images without a split.
        """
        self._folder, self._schemes = folder, schemes
        self._rows: list[Row] = []

    def __enter__(self) -> "CaptionWriter":
        from pyarrow import parquet

        schema = _table([], {scheme: {} for scheme in self._schemes}).schema
        self._file = parquet.ParquetWriter(self._folder / "captions.parquet", schema)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._rows:
            self._end_part()
        self._file.close()

    def add(self, rows: Iterable[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= PART:
            self._end_part()

    def _end_part(self) -> None:
        images = dict.fromkeys(row.image_id for row in self._rows)
        splits = {scheme: split_of(images) for scheme, split_of in self._schemes.items()}
        self._file.write_table(_table(self._rows, splits))
        self._rows = []
