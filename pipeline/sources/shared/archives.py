"""Archives of a public release: found in a local folder or downloaded, checked, and opened without
being trusted."""

import lzma
import shutil
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.core.errors import UserError, one_line
from pipeline.data.files import digest, remove, whole_file

# Number of failures without a new byte before the next mirror is tried. Each attempt resumes where
# the last one was cut off.
ATTEMPTS = 5
# Seconds to connect, and seconds between two pieces.
TIMEOUT = (10, 60)
# Bytes per piece; a lost connection loses at most this many.
PIECE = 1 << 14
# Maximum bytes in the name of a member, or of a folder in its path. File systems allow no longer
# names.
LONGEST_NAME = 255
# An archive is refused if it unpacks to more than this many bytes and to over 200 times its own
# size.
BOMB = 1 << 30


@dataclass(frozen=True)
class Archive:
    name: str
    md5: str
    """MD5 of the public release. If it is empty, none is known, and a download must at least be a
    complete zip archive."""
    mirrors: tuple[str, ...]
    "URL prefixes, tried in turn; the name is appended to each."
    parts: tuple[str, ...] = ()
    "Files in which the archive is published. Concatenated in order, they are the archive."

    def __str__(self) -> str:
        return f"{self.name} (or {', '.join(self.parts)})" if self.parts else self.name


def local(folder: Path, archives: list[Archive], where: str, scratch: Path) -> dict[str, Path]:
    """Return the archives of a release by name, from a folder of the user's.

    Args:
        where: the setting that names the folder, for messages.
        scratch: the folder in which archives that are there in parts are put together.

    Raises:
        UserError: the folder or one of the archives is missing.
    """
    missing = [a for a in archives if not _held(a, folder)]
    if missing:
        wanted = " and ".join(map(str, archives))
        lack = f"lacks {' and '.join(map(str, missing))}" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder} ({where}) {lack}: put {wanted} there")
    held = {a.name: _held(a, folder) for a in archives}
    return {
        name: files[0] if len(files) == 1 else _join(files, scratch / name)
        for name, files in held.items()
    }


def _held(archive: Archive, folder: Path) -> list[Path]:
    """Return the files that make up the archive: the archive itself, or all its parts, or none."""
    whole, parts = folder / archive.name, [folder / part for part in archive.parts]
    if whole.is_file():
        return [whole]
    return parts if all(part.is_file() for part in parts) else []


def _join(parts: list[Path], path: Path) -> Path:
    with whole_file(path) as whole, whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
    return path


def download(archives: list[Archive], folder: Path, pause: float = 1.0) -> dict[str, Path]:
    """Download the archives that `folder` does not contain yet; resume interrupted downloads.

    Args:
        pause: seconds to wait after a failed attempt, multiplied by the number of failures.

    Raises:
        UserError: no mirror provides the archive (checked by its MD5, or at least as a complete
            zip). The message gives each mirror's answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {a.name: _download(a, folder / a.name, pause) for a in archives}


def _download(archive: Archive, path: Path, pause: float) -> Path:
    answers = []
    for mirror in archive.mirrors:
        resumed = any(file.exists() for file in _files(archive, path))
        problem = _try(archive, mirror, path, pause)
        if resumed and not any(
            file.exists() for file in _files(archive, path)
        ):  # the broken part may be a leftover that was resumed
            problem = _try(archive, mirror, path, pause)
        if not problem:
            return path
        answers.append(problem)
    raise UserError(f"cannot download {archive.name}: {'; '.join(answers)}")


def _files(archive: Archive, path: Path) -> list[Path]:
    return [path, *(path.with_name(part) for part in archive.parts)]


def _try(archive: Archive, mirror: str, path: Path, pause: float) -> str:
    """Fetch the archive from one mirror; return what went wrong, or ''.

    Files that turn out not to be the archive are deleted.
    """
    if not (archive.parts and path.exists()):  # else joined by an interrupted run
        for name in archive.parts or (archive.name,):
            problem = _fetch_whole(mirror + name, path.with_name(name), pause)
            if problem:
                return f"{mirror}{name}: {problem}"
    parts = [path.with_name(part) for part in archive.parts]
    if parts and not path.exists():
        _join(parts, path)
    flaw = _flaw(path, archive.md5)
    for file in (path, *parts) if flaw else parts:
        remove(file)
    return f"{mirror}{archive}: {flaw}" if flaw else ""


def _flaw(path: Path, md5: str) -> str:
    if not md5:
        return "" if zipfile.is_zipfile(path) else "not a whole zip archive"
    found = digest(path)
    return "" if found == md5 else f"md5 is {found}, not {md5}"


def _fetch_whole(url: str, path: Path, pause: float) -> str:
    """Fetch one address into `path`, resuming after lost connections; return what went wrong, or
    ''."""
    import requests

    failures, most = 0, _size(path)
    while failures < ATTEMPTS:
        try:
            _fetch(url, path)
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 0
            problem = f"HTTP status {status}" if status else type(error).__name__
            if 400 <= status < 500:
                return problem
            failures = 0 if _size(path) > most else failures + 1
            most = max(most, _size(path))
            time.sleep(pause * failures)
        else:
            return ""
    return f"{problem} ({ATTEMPTS} times)"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(url: str, path: Path) -> None:
    """Append to `path` the bytes of `url` that it still lacks."""
    import requests
    from tqdm import tqdm

    have = _size(path)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # the file was complete; its md5 is compared next
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            path.open("ab" if have else "wb") as file,
            tqdm(
                desc=path.name,
                total=total,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=None,
                file=sys.stderr,
            ) as bar,
        ):
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))


# Exceptions that reading a broken archive raises.
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive after checking the names and sizes of its members.

    `zipfile` reads no member beyond its stated size.

    Raises:
        UserError: the file is not a zip archive, or a broken one, or uses a compression that Python
            does not know; a member would leave the folder, is a link, is encrypted, or has a name
            that no file can have; the total size is that of a decompression bomb.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            yield archive
    except NotImplementedError as error:
        raise UserError(
            f"{path} cannot be unpacked ({one_line(error)}): pack it again, as zip usually does"
        ) from None
    except (*BROKEN, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not a whole zip archive ({one_line(error)}): get it again"
        ) from None
    except OSError as error:
        if error.errno is not None:  # without a number, bz2 reports broken data
            raise
        raise UserError(
            f"{path} is not a whole zip archive ({one_line(error)}): get it again"
        ) from None


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    for member in archive.infolist():
        name = PurePosixPath(member.filename)
        if (
            name.is_absolute()
            or ".." in name.parts
            or "\\" in member.filename
            or member.filename[1:2] == ":"
        ):
            raise UserError(
                f"{path}: member {member.filename!r} would leave its folder; do not trust "
                "this archive"
            )
        if any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_NAME for part in name.parts):
            raise UserError(
                f"{path}: member {member.filename[:40]!r}... has a name of more than "
                f"{LONGEST_NAME} bytes, which no file can have; do not trust this archive"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(
                f"{path}: member {member.filename!r} is a link; do not trust this archive"
            )
        if member.flag_bits & 1:
            raise UserError(
                f"{path}: member {member.filename!r} is encrypted; give an archive without "
                "a password"
            )
    total = sum(member.file_size for member in archive.infolist())
    if total > max(BOMB, 200 * path.stat().st_size):
        raise UserError(
            f"{path} would unpack to {total:,} bytes, {total // path.stat().st_size} times "
            "its size; refused"
        )


def read_member(path: Path, name: str) -> bytes:
    """Return the bytes of one member.

    Raises:
        UserError: there is no such member, or the archive cannot be trusted (see `opened`).
    """
    with opened(path) as archive:
        if name not in archive.namelist():
            raise UserError(f"{path} holds no {name}: it is not the archive that was published")
        return archive.read(name)


def names(path: Path) -> list[str]:
    """Return the names of an archive's files in its order, without those that macOS adds."""
    with opened(path) as archive:
        return [
            m.filename
            for m in archive.infolist()
            if not m.is_dir() and not m.filename.startswith("__MACOSX/")
        ]


def unpack(
    path: Path, inside: str, put: Callable[[str, bytes], object], only: Container[str]
) -> None:
    """Pass each wanted file to `put(name, content)`, in the order of their names.

    Args:
        inside: a folder of the archive; only files directly in it are passed.
        only: names of the wanted files.
    """
    from tqdm import tqdm

    with opened(path) as archive:
        members = [
            m
            for m in archive.infolist()
            if not m.is_dir() and str(PurePosixPath(m.filename).parent) == inside
        ]
        if not members:
            raise UserError(
                f"{path} holds no files in {inside}/: it is not the archive that was published"
            )
        named = {PurePosixPath(m.filename).name: m for m in members}
        wanted = sorted(name for name in named if name in only)
        for name in tqdm(wanted, desc=f"unpacking {path.name}", unit=" files", disable=None):
            put(name, archive.read(named[name]))
