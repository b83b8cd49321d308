"""A person's mistake becomes one line on stderr and exit status 2; a bug keeps its traceback.

What is printed may come from files, archives and servers of others, so all of it goes through
`printable`: a terminal obeys control characters, in a file name as well.
"""

import errno
import re
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from textwrap import shorten
from typing import TextIO

LONGEST = 2000
"characters of a message, or of a text in a line that is printed"
_CUT = " [...] "
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""control characters, line ends, changes of direction, halves of characters (which no terminal can
be sent)"""


class UserError(Exception):
    """What is wrong, where (file, row, key) and what to do, in one line."""


def printable(text: object, longest: int | None = LONGEST) -> str:
    r"""A text as one line that a terminal only shows: what it would obey is written as an escape.

    Args:
        longest: characters; of a longer text, three quarters from its beginning and the rest from
            its end are kept, for there it says what to do. None: of any length.

    Example:
        >>> printable("photo\x1b[2J.jpg")
        'photo\\x1b[2J.jpg'
    """
    shown = str(text)
    if longest is not None and len(shown) > longest:
        kept = longest - len(_CUT)
        shown = f"{shown[: kept - kept // 4]}{_CUT}{shown[len(shown) - kept // 4 :]}"
    return _OBEYED.sub(_escaped, shown)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no text
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def say(text: object, file: TextIO | None = None) -> None:
    """Print a text of one or more lines, each `printable`.

    Args:
        file: standard output without it.
    """
    lines = (printable(line, longest=None) for line in str(text).split("\n"))
    encoding = getattr(file or sys.stdout, "encoding", None) or "utf-8"
    print(encodable("\n".join(lines), encoding), file=file, flush=True)


def encodable(text: str, encoding: str) -> str:
    """The text with escapes for what a terminal of this encoding cannot show.

    Example:
        >>> print(encodable("0.71 ±.01, café", "ascii"))
        0.71 +-.01, caf\\xe9
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "backslashreplace").decode(encoding)
    return text


def one_line(error: BaseException) -> str:
    """What an error says, as one printable line of at most `LONGEST` characters."""
    return printable(" ".join(str(error).split()))


def brief(error: BaseException) -> str:
    """A library's error inside a line of ours: its type and the beginning of what it says."""
    return printable(shorten(f"{type(error).__name__}: {str(error)[:LONGEST]}", 160))


def run(main: Callable[[], object]) -> None:
    """Run an entry point; exit 2 on a UserError or a disk that is full or may not be written, 130
    on Ctrl-C."""
    show_all()
    try:
        main()
    except UserError as error:
        sys.exit(_fail(one_line(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; run the same command again to continue", 130))
    except OSError as error:
        reason = _of_disk(error)
        if not reason:
            raise
        sys.exit(_fail(f"{reason}, then run the same command again", 2))


def show_all() -> None:
    """Print what the terminal's encoding lacks as escapes, also where a library prints, not
    `say`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def let_through(error: BaseException) -> None:
    """Raise the error of a disk that is full, or of a file that this user may not read, for `run`
    to tell. Readers call it, for they would take such a file for a damaged one."""
    if isinstance(error, OSError) and _of_disk(error):
        raise error


def check_access(path: Path) -> None:
    """Raise the PermissionError of a file that is there and may not be read, before a library is
    asked that calls it missing (safetensors) or gives no kind of error (tokenizers)."""
    if path.is_file():
        path.open("rb").close()


def _of_disk(error: OSError) -> str:
    """What is wrong with the place that was written or read, and what to do; '' for other
    errors."""
    where = error.filename or ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        while_writing = f" while writing {where}" if where else ""
        return f"the disk is full{while_writing}: free some space"
    where = where or one_line(error)  # Arrow names the file in its text alone
    if error.errno == errno.EROFS:
        return f"{where} is on a disk that is read-only here: work in a copy that can be written"
    if isinstance(error, PermissionError):
        return f"{where} may not be written or read by this user: change its permissions"
    return ""


def _fail(message: str, status: int) -> int:
    say(f"error: {printable(message)}", file=sys.stderr)
    return status
