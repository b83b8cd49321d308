"""Pictures in cells of the `datasets` library: bytes, or the path of a file.

The author of a data set chooses the paths, and every file that is read is copied to data/raw,
cached and pushed. Files are therefore read only from the local folder that was named, from the hub,
or from the library's own caches. A table with the path /etc/passwd gets nothing.
"""

from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.sources.shared.caption_tables import kind
from pipeline.sources.shared.gate import LARGEST, SUFFIXES, Gate, tell

# First bytes of image files -> suffix.
MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


class SetPictures:
    """Reads the picture cells of one data set.

    Args:
        root: the local folder; None for a data set of the hub.
    """

    def __init__(self, root: Path | None) -> None:
        self._gate = Gate(root) if root else None
        self._refused: list[str] = []

    def read(self, cell: Any, where: str) -> bytes | None:
        """Return the bytes of a picture's file, or None if there is no file that may be read.

        A file of more than LARGEST bytes also gives None.

        Raises:
            UserError: the cell contains something other than a picture.
        """
        if isinstance(cell, dict) and {"bytes", "path"} & cell.keys():
            content, path = cell.get("bytes"), cell.get("path")
        elif cell is None or isinstance(cell, bytes):
            content, path = cell, None
        else:
            raise UserError(
                f"{where}: the picture is {kind(cell)}: set image_column to a column of pictures"
            )
        if content is None and path:
            content = self._content(path)
        return content if content and len(content) <= LARGEST else None

    def _content(self, path: str) -> bytes | None:
        if not self._may_be_read(path):
            self._refused.append(path)
            return None
        from fsspec import open as open_any

        try:
            with open_any(path, "rb") as file:
                content: bytes = file.read(LARGEST + 1)
                return content
        except (OSError, ValueError, KeyError):  # fsspec's archives raise KeyError
            return None

    def _may_be_read(self, path: str) -> bool:
        """Return whether the file at a path may be read.

        In a chained path such as `zip://a.jpg::/data/photos.zip`, the last part is the file.
        """
        file = path.rpartition("::")[2]
        if "://" in file:
            return file.startswith("hf://") and not self._gate
        if self._gate:
            return self._inside(self._gate, Path(file))
        from datasets.config import HF_DATASETS_CACHE
        from huggingface_hub.constants import HF_HUB_CACHE

        caches = (Path(cache).resolve() for cache in (HF_DATASETS_CACHE, HF_HUB_CACHE))
        return any(Path(file).resolve().is_relative_to(cache) for cache in caches)

    def _inside(self, gate: Gate, file: Path) -> bool:
        root = gate.root.absolute()
        return file.absolute().is_relative_to(root) and gate.takes(
            file.absolute().relative_to(root).as_posix()
        )

    def tell(self, source: str) -> None:
        """Report on standard error which pictures were not read."""
        if self._gate:
            self._gate.tell(source)
            self._refused = [p for p in self._refused if not self._named(self._gate, p)]
        tell(source, "pictures lie outside the data set and are not read", self._refused)

    def _named(self, gate: Gate, path: str) -> bool:
        """Return whether the gate has already reported the path."""
        file, root = Path(path.rpartition("::")[2]).absolute(), gate.root.absolute()
        return file.is_relative_to(root) and file.relative_to(root).as_posix() in gate.refused


def suffix_of(content: bytes) -> str:
    """Return the suffix of an image file by its first bytes."""
    return next((suffix for start, suffix in MAGIC.items() if content.startswith(start)), ".img")


def pictures_in(file: Path) -> int:
    """Return the number of rows of a table, 1 for an image file, or 0 for another file."""
    if file.suffix == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(file).num_rows)
    if file.suffix == ".arrow":
        from pyarrow import ipc, memory_map

        with memory_map(str(file)) as source:
            return sum(batch.num_rows for batch in ipc.open_stream(source))
    return int(file.suffix.lower() in SUFFIXES)
