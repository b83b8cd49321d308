"""Pictures in tar shards of WebDataset's layout (Aizman, Maltby and Breuel, 2019, 2001.01858), with
an index beside them. Equal pictures in equal order give equal bytes.

A member is named <key><suffix>. Its key is the image_id without the picture's suffix. Every dot
becomes %2E, because WebDataset ends a key at the first dot of a name. Every byte that is not ASCII
becomes %XX, because a plain tar header contains nothing else.
"""

import tarfile
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import TracebackType
from urllib.parse import quote

import pyarrow as pa
from pyarrow import parquet

from pipeline.core.errors import UserError
from pipeline.core.on_disk import OnDisk

FOLDER, INDEX = "shards", "images.parquet"
# Maximum number of pictures per shard. It is a power of two, so that batches of 32 images end where
# a shard does. Features then do not depend on where a shard begins.
PICTURES = 1024
# Size in bytes at which a shard ends and the next one begins.
BYTES = 1 << 30
# Suffix of a picture that has none: a member without a suffix is not a sample.
NAMELESS = ".img"
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("file", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)


def member_name(image_id: str, suffix: str) -> str:
    """Return the name of a picture's member: `1.jpg` for ("1.jpg", ".jpg") and for ("1", ".JPG");
    `cats/a%2Eb.png` for ("cats/a.b", ".png")."""
    key = quote(image_id.removesuffix(suffix) or image_id, safe="/ ").replace(".", "%2E")
    return key + (quote(suffix.lower(), safe=".") or NAMELESS)


class ShardWriter:
    """Fills `folder` with shards/ and images.parquet, which are complete if the block ends without
    an error.

    The index has one row per picture, in the order of the shards. Its columns are image_id, file
    (the member's name), shard (relative to `folder`), and offset and size of the picture's bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._image_of = OnDisk(1)
        "Key -> image_id."
        self._ids, self._count = OnDisk(), 0
        self._shards = 0
        self._tar: tarfile.TarFile | None = None
        self._rows: list[tuple[str, str, str, int, int]] = []

    def __enter__(self) -> "ShardWriter":
        (self.folder / FOLDER).mkdir()
        self._index = parquet.ParquetWriter(self.folder / INDEX, SCHEMA)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            self._end_shard()
        elif self._tar:
            self._tar.fileobj.close()
        self._index.close()

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._ids

    def __len__(self) -> int:
        return self._count

    def add(self, image_id: str, content: bytes, suffix: str | None = None) -> None:
        """Add a picture to the shards.

        Args:
            content: the picture's file as it was published.
            suffix: suffix of that file's name, such as `.jpg`; None if the image_id ends with it.

        Raises:
            UserError: another picture has this image_id, or the same key in the shards.
        """
        name = member_name(image_id, PurePosixPath(image_id).suffix if suffix is None else suffix)
        key = name.partition(".")[0]
        (other,) = self._image_of.get(key) or (image_id,)
        if image_id in self._ids or other != image_id:
            raise UserError(
                f"the pictures '{other}' and '{image_id}' would both be '{name}' in the shards: "
                "rename one of them"
            )
        self._image_of.put([(key, image_id)])
        self._ids.put([(image_id,)])
        self._count += 1
        tar = self._open_shard()
        about = tarfile.TarInfo(name)  # no owner, mode 644, dated 1970
        about.size = len(content)
        tar.addfile(about, BytesIO(content))
        offset = tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        shard = f"{FOLDER}/{self._shards - 1:06}.tar"
        self._rows.append((image_id, name, shard, offset, len(content)))
        if len(self._rows) == PICTURES or tar.offset >= BYTES:
            self._end_shard()

    def _open_shard(self) -> tarfile.TarFile:
        if self._tar is None:
            path = self.folder / FOLDER / f"{self._shards:06}.tar"
            self._tar = tarfile.TarFile(path, "w", format=tarfile.PAX_FORMAT)
            self._shards += 1
        return self._tar

    def _end_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        columns = zip(SCHEMA.names, zip(*self._rows, strict=True), strict=True)
        self._index.write_table(pa.table(dict(columns), SCHEMA))
        self._tar, self._rows = None, []
