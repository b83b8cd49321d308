"""JSON files of texts in the layout of `files.write_json`, read and written a few texts at a
time."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.data.checked import RESTORE, check_lists, read_json, read_texts, readable
from pipeline.data.files import whole_file

# Number of images whose texts are read at once.
IMAGES = 64
# Number of lines that `Texts` reads at once.
LINES = 1000


def texts_by_image(path: Path) -> Mapping[str, list[str]]:
    """Return image_id -> texts. A file in another layout is read whole.

    Raises:
        UserError: the file is missing or holds something else. If only a part of a large file is
            wrong, the error is raised when that part is read.
    """
    try:
        return _Texts(path)
    except (OSError, ValueError):
        return read_texts(path)


class _Texts(Mapping[str, list[str]]):
    """Texts of a file whose keys are sorted. Each key is on a separate line, indented by two
    spaces. The offset of every 64th key is enough to find them all.

    Raises:
        ValueError: the file has another layout.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._path = path.open("rb"), path
        self._keys: list[str] = []
        self._places: list[int] = []
        self._count, self._block = 0, (-1, dict[str, list[str]]())
        place, last, line = 0, "", b""
        for n, line in enumerate(self._file):
            if n == 0 and line != b"{\n":
                raise ValueError(path)
            if line.startswith(b'  "'):
                key = _key(line)
                if self._count and key <= last:
                    raise ValueError(path)
                if self._count % IMAGES == 0:
                    self._keys.append(key)
                    self._places.append(place)
                self._count, last = self._count + 1, key
            place += len(line)
        if line != b"}\n" or not self._count:
            raise ValueError(path)
        self._places.append(place - len(b"}\n"))

    def __getitem__(self, image: str) -> list[str]:
        n = bisect_right(self._keys, image) - 1
        if n != self._block[0]:
            self._block = n, self._read(n) if n >= 0 else {}
        return self._block[1][image]

    def _read(self, n: int) -> dict[str, list[str]]:
        start, end = self._places[n : n + 2]
        self._file.seek(start)
        part = b"{" + self._file.read(end - start).rstrip(b",\n") + b"}"
        with readable(self._path, "JSON"):
            texts: dict[str, list[str]] = json.loads(part)
        check_lists(texts, self._path)
        return texts

    def __iter__(self) -> Iterator[str]:
        for n in range(len(self._keys)):
            yield from self._read(n)

    def __len__(self) -> int:
        return self._count


def _key(line: bytes) -> str:
    """Return the key of the line `  "key": [` or, if it has no texts, `  "key": [],`."""
    text = (
        line.strip()
        .removesuffix(b",")
        .removesuffix(b"]")
        .removesuffix(b"[")
        .rstrip()
        .removesuffix(b":")
    )
    key = json.loads(text)
    if not isinstance(key, str):
        raise ValueError(line)
    return key


class Texts:
    """The texts of a JSON list. Each iteration starts from the beginning of the file.

    Raises:
        UserError: during iteration, if the file is missing or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[str]:
        with readable(self._path, "JSON"), self._path.open("rb") as file:
            if file.readline() != b"[\n":
                yield from self._checked(read_json(self._path))
                return
            while lines := b"".join(islice(file, LINES)):
                yield from self._checked(json.loads(b"[" + lines.rstrip(b",]\n") + b"]"))

    def _checked(self, texts: Any) -> list[str]:
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self._path} holds values other than texts: {RESTORE}")
        return texts


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Write a JSON list of texts, byte for byte as `files.write_json` does."""
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        between = "[\n  "
        for text in texts:
            file.write(between + json.dumps(text, ensure_ascii=False))
            between = ",\n  "
        file.write("\n]\n" if between[0] == "," else "[]\n")
