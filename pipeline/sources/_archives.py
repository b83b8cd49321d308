"""Archives of a public release: found in a local folder or downloaded, checked, and opened without trusting them."""

import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import UserError, one_line
from pipeline.files import digest

ATTEMPTS = 5
"failures without a single new byte before the next mirror; each try goes on where the last was cut off"
TIMEOUT = (10, 60)
"seconds to connect, and between two pieces"
PIECE = 1 << 14
"bytes; a cut connection loses at most so many"
BOMB = 1 << 30
"an archive that unpacks to more bytes than this and to over 200 times its own size is refused"


@dataclass(frozen=True)
class Archive:
    name: str
    md5: str
    "of the public release"
    mirrors: tuple[str, ...]
    "what its name is appended to, tried in turn"


def local(folder: Path, archives: list[Archive], where: str) -> dict[str, Path]:
    """The archives of a release in a folder of the user's; `where` says what named that folder.

    Raises:
        UserError: the folder or one of the archives is not there.
    """
    missing = [a.name for a in archives if not (folder / a.name).is_file()]
    if missing:
        wanted = " and ".join(a.name for a in archives)
        lack = f"lacks {' and '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder} ({where}) {lack}: put {wanted} there")
    return {a.name: folder / a.name for a in archives}


def download(archives: list[Archive], folder: Path, pause: float = 1.0) -> dict[str, Path]:
    """Download what `folder` does not hold yet; what an interrupted run left there is resumed.

    Args:
        pause: seconds to wait after a failed try, times the number of failures.

    Raises:
        UserError: no mirror gives a file with the right md5; the message says what each of them answered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {a.name: _download(a, folder / a.name, pause) for a in archives}


def _download(archive: Archive, path: Path, pause: float) -> Path:
    answers = []
    for url in (mirror + archive.name for mirror in archive.mirrors):
        resumed = path.exists()
        problem = _try(url, path, archive.md5, pause)
        if resumed and not path.exists():  # the bad part may be the one that lay there
            problem = _try(url, path, archive.md5, pause)
        if not problem:
            return path
        answers.append(f"{url}: {problem}")
    raise UserError(f"cannot download {archive.name}: {'; '.join(answers)}")


def _try(url: str, path: Path, md5: str, pause: float) -> str:
    """Fetch one address into `path`; return what went wrong, or nothing. A file with a wrong md5 is deleted."""
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
            return _check(path, md5)
    return f"{problem} ({ATTEMPTS} times)"


def _check(path: Path, md5: str) -> str:
    found = digest(path)
    if found == md5:
        return ""
    path.unlink()
    return f"md5 is {found}, not {md5}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(url: str, path: Path) -> None:
    """Append to `path` what it still lacks of `url`."""
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
            tqdm(desc=path.name, total=total, initial=have, unit="B", unit_scale=True, disable=None, file=sys.stderr) as bar,
        ):
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose member names and sizes have been checked; `zipfile` reads no member beyond its stated size.

    Raises:
        UserError: not a zip archive or a broken one, or a member that would leave the folder, is a link or encrypted,
            or a total size that only a decompression bomb has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is not a whole zip archive ({one_line(error)}): get it again") from None


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    for member in archive.infolist():
        name = PurePosixPath(member.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename or member.filename[1:2] == ":":
            raise UserError(f"{path}: member {member.filename!r} would leave its folder; do not trust this archive")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path}: member {member.filename!r} is a link; do not trust this archive")
        if member.flag_bits & 1:
            raise UserError(f"{path}: member {member.filename!r} is encrypted; give an archive without a password")
    total = sum(member.file_size for member in archive.infolist())
    if total > max(BOMB, 200 * path.stat().st_size):
        raise UserError(f"{path} would unpack to {total:,} bytes, {total // path.stat().st_size} times its size; refused")


def read_member(path: Path, name: str) -> bytes:
    """The bytes of one member.

    Raises:
        UserError: there is no such member, or the archive cannot be trusted (see `opened`).
    """
    with opened(path) as archive:
        if name not in archive.namelist():
            raise UserError(f"{path} holds no {name}: it is not the archive that was published")
        return archive.read(name)


def unpack(path: Path, inside: str, folder: Path) -> list[str]:
    """Write the files that lie directly in the archive's folder `inside` to `folder`; return their names, sorted."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    with opened(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir() and str(PurePosixPath(m.filename).parent) == inside]
        if not members:
            raise UserError(f"{path} holds no files in {inside}/: it is not the archive that was published")
        for member in tqdm(members, desc=f"unpacking {path.name}", unit=" files", disable=None):
            (folder / PurePosixPath(member.filename).name).write_bytes(archive.read(member))
    return sorted(PurePosixPath(m.filename).name for m in members)
