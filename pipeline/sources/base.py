"""What every source shares: the index it writes, and where its archives come from.

A source is a module of this folder with one public function

    fetch(folder: Path, *, <arguments of params.yaml, typed>) -> None

that fills `folder` whole or not at all: images/, captions.parquet, manifest.json (see docs/design.md).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import digest, remove, write_json
from pipeline.sources import _archives
from pipeline.sources._archives import Archive, read_member, unpack

__all__ = ["SPLITS", "Archive", "Row", "find_archives", "md5s", "read_member", "unpack", "write_index"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One caption as published."""

    image_id: str
    file: str | None
    "relative to the dataset's folder; None: the publisher names an image that is not there"
    number: int
    "caption_id is `<image_id>#<number>`"
    raw: str
    undecodable: bool = False
    "some bytes were no UTF-8; `raw` shows them as backslash escapes"


def write_index(folder: Path, rows: Sequence[Row], schemes: dict[str, dict[str, str]], manifest: Mapping[str, object]) -> None:
    """Write captions.parquet and manifest.json; rows keep their order.

    Args:
        schemes: per split scheme, the split of every image that has one, by image_id.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "image_id": pa.array([row.image_id for row in rows], pa.string()),
        "file": pa.array([row.file for row in rows], pa.string()),
        "caption_id": pa.array([f"{row.image_id}#{row.number}" for row in rows], pa.string()),
        "raw": pa.array([row.raw for row in rows], pa.string()),
        "undecodable": pa.array([row.undecodable for row in rows], pa.bool_()),
    }
    for scheme, split_of in schemes.items():
        columns[f"split_{scheme}"] = pa.array([split_of.get(row.image_id) for row in rows], pa.string())
    parquet.write_table(pa.table(columns), folder / "captions.parquet")
    write_json(folder / "manifest.json", manifest)


@contextmanager
def find_archives(folder: Path, source: str, archives: list[Archive], given: str) -> Iterator[dict[str, Path]]:
    """The archives of a release by name: those of a local folder, or else downloaded.

    A local folder is named by the environment variable CAPTIONLAB_<SOURCE> or by `given`; its archives may differ from
    the release (the manifest records their md5). A download waits beside `folder` until the block ends well, so that an
    interrupted one is resumed; then it is deleted.

    Raises:
        UserError: an archive is missing, or cannot be downloaded.
    """
    variable = f"CAPTIONLAB_{source.upper()}"
    local = os.environ.get(variable) or given
    if local:
        where = variable if os.environ.get(variable) else "archives: in params.yaml"
        yield _archives.local(Path(local).expanduser(), archives, where)
        return
    waiting = folder.with_name(f".{folder.name}.download")
    try:
        found = _archives.download(archives, waiting)
    except UserError as error:
        raise UserError(f"{error}; or name a folder that holds it in {variable} or archives: in params.yaml") from None
    yield found
    remove(waiting)


def md5s(paths: dict[str, Path]) -> dict[str, str]:
    """What the manifest says of the archives that were used."""
    return {name: digest(path) for name, path in sorted(paths.items())}
