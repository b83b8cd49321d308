"""Tar shards that others wrote: their samples by WebDataset's rule, and checks for damage.

The files of a sample share one key: the name up to the first dot after the last slash. The rest of
the name gives the kind of file: `cats/1.jpg` and `cats/1.txt` are the picture and the text of
`cats/1`.
"""

import re
import tarfile
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.core.errors import UserError, one_line

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
# Number of shards that a message names.
FIRST = 3


class File(NamedTuple):
    """A file of a sample, and where its bytes are in the shard."""

    name: str
    key: str
    "Key of the sample, without the ./ that `tar -cf x.tar .` writes."
    suffix: str
    "The name from its last dot on, in lower case."
    offset: int
    size: int


class Passed(NamedTuple):
    """A member that is not a file of a sample."""

    name: str
    reason: str


def find_shards(path: str) -> tuple[Path, list[Path]]:
    """Return the folder that contains all shards, and the sorted paths of the shards.

    Args:
        path: a folder, which stands for its .tar files, or a pattern with {00000..00099}, {a,b}, *,
            ? or [ab].

    Raises:
        UserError: there are no shards, or a shard that the braces name does not exist.
    """
    from braceexpand import braceexpand

    given = Path(path).expanduser()
    if given.is_dir():
        found = sorted(given.glob("*.tar"))
    else:
        try:
            names = list(braceexpand(str(given)))
        except ValueError as error:  # a brace that does not end
            raise UserError(f"path: {path} in params.yaml: {one_line(error)}") from None
        found = sorted(
            Path(n) for name in names for n in (glob(name) if has_magic(name) else [name])
        )
    if not found:
        raise UserError(
            f"{path} (path: in params.yaml) names no shards: name a folder that holds .tar files, "
            "or a pattern such as shards/{00000..00099}.tar"
        )
    missing = [str(shard) for shard in found if not shard.is_file()]
    if missing:
        raise UserError(f"path: in params.yaml names shards that are not there: {_some(missing)}")
    return _common(found), list(dict.fromkeys(found))


def _common(shards: list[Path]) -> Path:
    folder = shards[0].parent
    while not all(shard.is_relative_to(folder) for shard in shards):
        folder = folder.parent
    return folder


def check(shards: list[Path]) -> None:
    """Check that all shards are complete tar files.

    Raises:
        UserError: some are not; the message names them.
    """
    flaws = [flaw for shard in shards if (flaw := _flaw(shard))]
    if flaws:
        raise UserError(f"{_some(flaws)}: get it again, or leave it out of path: in params.yaml")


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - FIRST} more" if len(texts) > FIRST else ""
    return ", ".join(texts[:FIRST]) + more


def _flaw(shard: Path) -> str:
    """Return what is wrong with a shard, or ''.

    tarfile treats a header that it cannot read as the end of the archive, and does not check
    whether the last member is complete. Both are checked here.
    """
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    return f"{shard} ends within '{member.name}'"
            end = tar.offset
        with shard.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                return f"{shard} is broken at byte {end:,}"
    except (tarfile.TarError, EOFError, ValueError) as error:
        return f"{shard} is not a complete, uncompressed tar file ({one_line(error)})"
    return ""


def files_of(shard: Path) -> Iterator[File | Passed]:
    """Yield every member except folders, in the order of the shard."""
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            parts = PurePosixPath(member.name).parts
            match = _NAME.fullmatch(member.name)
            if not member.isreg() or member.issparse():
                yield Passed(member.name, "a link, pipe or device")
            elif member.name.startswith("/") or ".." in parts or not member.name.isprintable():
                yield Passed(member.name, "a name that leaves its folder or is not text")
            elif match is None:
                yield Passed(member.name, "a name without a key or a suffix")
            else:
                suffix = f".{match[2].rpartition('.')[2].lower()}"
                key = match[1].removeprefix("./")
                yield File(member.name, key, suffix, member.offset_data, member.size)


def read(shard: Path, file: File) -> bytes:
    with shard.open("rb") as opened:
        opened.seek(file.offset)
        return opened.read(file.size)
