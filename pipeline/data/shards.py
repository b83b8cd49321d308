"""The pictures of a data set, one by one. Each lies in a tar shard, and images.parquet says where.

A picture is read at its own offset, without the rest of its shard. The tar header before it is
compared with the index, so that no other bytes are taken for the picture.
"""

import errno
import tarfile
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError, one_line
from pipeline.data.checked import RESTORE, inside, need_columns, read_json, readable
from pipeline.data.files import whole_file

INDEX = "images.parquet"
COLUMNS = ["image_id", "file", "shard", "offset", "size"]
# Number of rows of the index that are held at once.
ROWS = 8192
HEADER = tarfile.BLOCKSIZE
READ_AGAIN = "dvc repro -f -s download@{} reads the shards as they are now"
# Maximum number of bytes of a name in a tar header. A longer name, or one that is not ASCII, stands
# before the header.
LONGEST = 100


class Member(NamedTuple):
    """A picture's file within a shard."""

    image_id: str
    file: str
    "The file's name in the shard."
    shard: Path
    offset: int
    "Bytes from the start of the shard to the first byte of the picture."
    size: int
    "Size of the picture's file in bytes."
    cure: str = RESTORE
    "What to do about a shard that has changed."

    def read(self) -> bytes:
        """Return the picture's file as it was published.

        Raises:
            UserError: the shard does not exist, is shorter than it was, or holds something else at
                this place.
        """
        try:
            if not self.shard.is_file():  # opening a pipe would wait
                raise FileNotFoundError(errno.ENOENT, "no such file")
            with self.shard.open("rb") as file:
                file.seek(self.offset - HEADER)
                self._check(file.read(HEADER))
                content = file.read(self.size)
        except OSError as error:
            raise UserError(
                f"{self.shard} cannot be read ({error.strerror}): picture '{self.image_id}' is "
                f"there; {self.cure}"
            ) from None
        if len(content) < self.size:
            raise self._mismatch("the shard ends before that")
        return content

    def _check(self, header: bytes) -> None:
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._mismatch(one_line(error)) from None
        if found.size != self.size:
            raise self._mismatch(f"the file there has {found.size:,} bytes")
        if self.file.isascii() and len(self.file) <= LONGEST and found.name != self.file:
            raise self._mismatch(f"'{found.name}' is there")

    def _mismatch(self, why: str) -> UserError:
        return UserError(
            f"{self.shard}: byte {self.offset} does not begin the {self.size:,} bytes of "
            f"'{self.file}' as {INDEX} says ({why}): {self.cure}"
        )


class Shards:
    """The pictures of data/raw/D, in the order of their shards. Every iteration starts anew.

    Raises:
        UserError: the index does not exist, is damaged, or names an impossible place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, folder / INDEX
        # `root` is the folder that the column `shard` is relative to.
        self.root, self.cure = folder, RESTORE
        elsewhere = _root(folder)
        if elsewhere:
            self.root, self.cure = elsewhere, READ_AGAIN.format(folder.name)
        with self._opened() as file:
            need_columns(file.schema_arrow.names, COLUMNS, self.index)
            self._count: int = file.metadata.num_rows

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Member]:
        with self._opened() as file:
            batches = file.iter_batches(ROWS, columns=COLUMNS, use_threads=False)
            while True:
                with readable(self.index):
                    batch = next(batches, None)
                    if batch is None:
                        return
                    columns = [batch[name].to_pylist() for name in COLUMNS]
                yield from map(self._member, *columns)

    def by_shard(self) -> Iterator[list[Member]]:
        """Yield the pictures of one shard after another."""
        for _, members in groupby(self, lambda member: member.shard):
            yield list(members)

    def find(self, image_ids: Collection[str]) -> dict[str, Member]:
        """Return the pictures that are here, by image id, in the order of `image_ids`."""
        from pyarrow import parquet

        with readable(self.index):
            wanted = [("image_id", "in", list(dict.fromkeys(image_ids)))] if image_ids else None
            rows = parquet.read_table(self.index, columns=COLUMNS, filters=wanted).to_pylist()
        found = {row["image_id"]: self._member(*row.values()) for row in rows if image_ids}
        return {image: found[image] for image in image_ids if image in found}

    def read(self, image_id: str) -> bytes:
        """Return a picture's file as it was published.

        Raises:
            UserError: as in `Member.read`; or there is no picture of this image.
        """
        found = self.find([image_id])
        if not found:
            raise UserError(f"{self.index} names no picture of image '{image_id}': {RESTORE}")
        return found[image_id].read()

    def _opened(self) -> Any:
        from pyarrow.parquet import ParquetFile

        with readable(self.index):
            return ParquetFile(self.index, buffer_size=2**16, pre_buffer=False)

    def _member(self, image_id: Any, file: Any, shard: Any, offset: Any, size: Any) -> Member:
        texts = all(isinstance(text, str) and text for text in (image_id, file, shard))
        numbers = all(isinstance(number, int) and number >= 0 for number in (offset, size))
        if not texts or not numbers or offset < HEADER or not (inside(file) and inside(shard)):
            raise UserError(
                f"{self.index} gives no place in a shard for image '{image_id}': {RESTORE}"
            )
        return Member(image_id, file, self.root / shard, offset, size, self.cure)


def _root(folder: Path) -> Path | None:
    """Return the folder of the shards if they were not made for this data set, as its manifest
    says; else None."""
    manifest = folder / "manifest.json"
    told = read_json(manifest) if manifest.is_file() else None
    root = told.get("root") if isinstance(told, dict) else None
    return Path(root) if isinstance(root, str) else None


def write_picture(member: Member, folder: Path) -> Path:
    """Write the picture as a file below `folder`, named as in its shard, and return the path.

    Raises:
        UserError: as in `Member.read`.
    """
    content = member.read()
    with whole_file(folder / member.file) as part:
        part.write_bytes(content)
    return folder / member.file
