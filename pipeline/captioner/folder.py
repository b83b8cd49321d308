"""Thousands of pictures -> a file of JSON lines, one per picture, written as it is captioned.

If run again, it resumes where it ended. A line begins with `file`, the picture's name as given, or
as found below a named folder. `caption`, `log_prob` and `alternatives` ([{text, log_prob, score}],
ordered by score) follow. A picture that cannot be read has `error` instead. The last keys are
`model` and `made_by`, which stands for the weights and the decoding. Each line thus says what made
it, and the file can be resumed without any other file.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.core.errors import UserError, one_line
from pipeline.core.progress import bar
from pipeline.images.reading import ImageError, read_image
from pipeline.sources.shared.gate import SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.captioner.captioner import Captioner

BATCH = 32
# Limit of the decoded pixels that wait for the model (192 MB). A batch of photographs holds fewer
# pictures than `BATCH`.
BATCH_PIXELS = 64_000_000


# How every line begins.
HEAD = b'{"file": '
# Some rows of the file at a time, without `model` and `made_by`.
Rows = Generator[list[dict[str, Any]], None, None]


@dataclass
class Counts:
    """Counts of the images that were named."""

    captioned: int = 0
    broken: int = 0
    before: int = 0
    "Number of these images that were in the file already."

    def add(self, captioned: Iterable[bool]) -> None:
        for good in captioned:
            self.captioned += good
            self.broken += not good


@dataclass
class _Batch:
    waiting: "list[tuple[str, Image]]" = field(default_factory=list)
    pixels: int = 0

    def add(self, file: str, picture: "Image") -> bool:
        """Add a picture, and return whether the batch is now full."""
        self.waiting.append((file, picture))
        self.pixels += picture.width * picture.height
        return len(self.waiting) == BATCH or self.pixels >= BATCH_PIXELS


def find_images(places: Iterable[Path]) -> list[str]:
    """Return the files as they are named, and every image below a folder, sorted by name.

    Hidden files, hidden folders and linked folders are left out.

    Raises:
        UserError: a place does not exist, or a folder holds no image.
    """
    return list(dict.fromkeys(chain.from_iterable(map(_images_of, places))))


def _images_of(place: Path) -> list[str]:
    if not place.exists():
        raise UserError(f"{place} is not there: name an image, or a folder of images")
    if not place.is_dir():
        return [str(place)]
    found = []
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        named = (
            name
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        )
        found += [os.path.join(folder, name) for name in named]
    if not found:
        raise UserError(f"{place} holds no images ({', '.join(sorted(SUFFIXES))})")
    return sorted(found)


def caption_into(
    out: Path,
    images: list[str],
    captioner: "Captioner",
    model: str,
    made_by: str,
    beam: int | None,
    samples: int | None,
    threads: int,
) -> Counts:
    """Append a line for each of `images` that has none in `out`.

    Args:
        model, made_by: name of the captioner, and a fingerprint of it and its decoding.
        threads: number of threads that decode pictures ahead of the model.

    Raises:
        UserError: see `append_rows`.
    """
    return append_rows(
        out, images, model, made_by, lambda left: captioned(left, captioner, beam, samples, threads)
    )


def append_rows(
    out: Path, images: list[str], model: str, made_by: str, caption: Callable[[list[str]], Rows]
) -> Counts:
    """Append a line for each of `images` that has none in `out`.

    Args:
        model, made_by: name of the captioner, and a fingerprint of it and its decoding.
        caption: returns the rows of these images, in any order. It is closed when writing ends, for
            whatever reason.

    Raises:
        UserError: `out` was made by something else, holds other lines, or is being written by
            another process.
    """
    with _open_alone(out) as file:
        there = _resume(file, out, model, made_by)
        left = [name for name in images if os.path.abspath(name) not in there]
        counts = Counts(before=len(images) - len(left))
        counts.add(there[path] for path in map(os.path.abspath, images) if path in there)
        with (
            bar(
                desc="caption", unit="images", total=len(images), initial=counts.before
            ) as progress,
            closing(caption(left)) as found,
        ):
            for rows in found:
                for row in rows:
                    file.write(_line(row | {"model": model, "made_by": made_by}))
                    file.flush()
                counts.add("caption" in row for row in rows)
                progress.update(len(rows))
        return counts


@contextmanager
def _open_alone(out: Path) -> Iterator[BinaryIO]:
    """Open a file to read and append, for this process alone.

    Two processes in one file would caption everything twice. An empty file is deleted at the end.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        file = out.open("a+b")
        lock.acquire(timeout=0)
        if not os.fstat(file.fileno()).st_nlink:  # the last holder of the lock deleted it, empty
            lock.release()
            raise Timeout(lock.lock_file)
    except Timeout:
        raise UserError(
            f"{out} is being written by another run: wait for it, or name another --out"
        ) from None
    except OSError as error:
        raise UserError(
            f"{out} (--out) cannot be written ({error.strerror}): name another place"
        ) from None
    try:
        with file:
            yield file
    finally:
        if not out.stat().st_size:
            out.unlink()
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _resume(file: BinaryIO, out: Path, model: str, made_by: str) -> dict[str, bool]:
    """Return the absolute path of every image in the file -> whether it is captioned.

    A half-written last line is cut off.
    """
    there: dict[str, bool] = {}
    file.seek(0)
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n") and (
            line.startswith(HEAD) or HEAD.startswith(line)
        ):  # its writer was killed
            file.truncate(file.seek(0, os.SEEK_END) - len(line))
            break
        row = _checked(line, f"{out}, line {number}", model, made_by)
        there[os.path.abspath(row["file"])] = "caption" in row
    return there


def _checked(line: bytes, where: str, model: str, made_by: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        maker, name, _ = row["made_by"], row["model"], os.fspath(row["file"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{where} is not a line written by captionlab caption: name another --out"
        ) from None
    if maker != made_by:
        other = (
            f"'{name}', not '{model}'"
            if name != model
            else f"'{name}' with other weights or another decoding"
        )
        raise UserError(f"{where} was made by {other}: name another --out, or delete the file")
    return dict(row)


def captioned(
    files: list[str],
    captioner: "Captioner",
    beam: int | None,
    samples: int | None,
    threads: int,
    root: str = "",
) -> Rows:
    """Yield each picture's row once its batch is full, and a broken picture's row at once.

    Args:
        threads: number of threads that decode pictures ahead of the model.
        root: the folder from which relative names start; by default the working directory.
    """
    batch = _Batch()
    for file, picture in _decoded(files, threads, root):
        if isinstance(picture, str):
            yield [{"file": file, "error": picture}]
        elif batch.add(file, picture):
            yield _rows(batch, captioner, beam, samples)
            batch = _Batch()
    if batch.waiting:
        yield _rows(batch, captioner, beam, samples)


def _rows(
    batch: _Batch, captioner: "Captioner", beam: int | None, samples: int | None
) -> list[dict[str, Any]]:
    said = captioner.caption([picture for _, picture in batch.waiting], beam, samples)
    return [
        {
            "file": file,
            "caption": caption.text,
            "log_prob": caption.log_prob,
            "alternatives": [one._asdict() for one in caption.alternatives],
        }
        for (file, _), caption in zip(batch.waiting, said, strict=True)
    ]


def _decoded(files: list[str], threads: int, root: str) -> "Iterator[tuple[str, Image | str]]":
    """Yield the files in order, each with its picture or the reason why it cannot be read.

    `threads` of them are decoded ahead.
    """
    ahead: deque[tuple[str, Future[Any]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for file in files:
            ahead.append((file, pool.submit(_read, Path(root, file))))
            if len(ahead) > threads:
                name, picture = ahead.popleft()
                yield name, picture.result()
        for name, picture in ahead:
            yield name, picture.result()


def _read(file: Path) -> "Image | str":
    try:
        return read_image(file)
    except ImageError as error:
        return one_line(error)


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # the file name has bytes that are not text
        return json.dumps(row, allow_nan=False).encode() + b"\n"
