"""Report a user's mistake as one line on stderr with exit status 2; a bug keeps its traceback.

Printed text may come from other people's files, archives and servers. All of it goes through
`printable`, because a terminal obeys control characters, even in a file name.
"""

import errno
import re
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from textwrap import shorten
from typing import TextIO

# Maximum number of characters of a message, or of a text in a printed line.
LONGEST = 2000
_CUT = " [...] "
# Control characters, line ends, changes of writing direction, and lone surrogates (which cannot be
# sent to a terminal).
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """One line that says what is wrong, where (file, row, key), and what to do."""


def printable(text: object, longest: int | None = LONGEST) -> str:
    r"""Return a text as one line that a terminal only shows: characters it would obey become
    escapes.

    Args:
        longest: maximum number of characters; None sets no limit. A longer text is cut in the
            middle. Three quarters of what is kept come from its beginning, the rest from its end,
            which says what to do.

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
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not valid text
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def say(text: object, file: TextIO | None = None) -> None:
    """Print a text of one or more lines, each made `printable`.

    Args:
        file: where to print; standard output by default.
    """
    lines = (printable(line, longest=None) for line in str(text).split("\n"))
    encoding = getattr(file or sys.stdout, "encoding", None) or "utf-8"
    print(encodable("\n".join(lines), encoding), file=file, flush=True)


def encodable(text: str, encoding: str) -> str:
    """Return the text with escapes for what a terminal with this encoding cannot show.

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
    """Return an error's message as one printable line of at most `LONGEST` characters."""
    return printable(" ".join(str(error).split()))


def brief(error: BaseException) -> str:
    """Return a library's error for use in our own message: its type and the beginning of its
    text."""
    return printable(shorten(f"{type(error).__name__}: {str(error)[:LONGEST]}", 160))


def run(main: Callable[[], object]) -> None:
    """Run an entry point, and exit with a status after an expected error.

    The status is 2 after a UserError, a full disk, or a file that may not be written or read. It is
    130 after Ctrl-C.
    """
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
    """Print characters that the terminal's encoding lacks as escapes, even if a library prints them
    without `say`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def let_through(error: BaseException) -> None:
    """Raise `error` again if it is about a full or read-only disk, or a file that this user may not
    access.

    `run` then reports it. Readers call this because they would otherwise take such a file for a
    damaged one.
    """
    if isinstance(error, OSError) and _of_disk(error):
        raise error


def check_access(path: Path) -> None:
    """Raise the PermissionError of a file that exists but may not be read.

    Call it before a library that would call the file missing (safetensors) or raise an error of no
    particular type (tokenizers).
    """
    if path.is_file():
        path.open("rb").close()


def _of_disk(error: OSError) -> str:
    """Return what is wrong with the place that was written or read, and what to do; '' for other
    errors."""
    where = error.filename or ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        while_writing = f" while writing {where}" if where else ""
        return f"the disk is full{while_writing}: free some space"
    where = where or one_line(error)  # Arrow names the file only in its message
    if error.errno == errno.EROFS:
        return f"{where} is on a disk that is read-only here: work in a copy that can be written"
    if isinstance(error, PermissionError):
        return f"{where} may not be written or read by this user: change its permissions"
    return ""


def _fail(message: str, status: int) -> int:
    say(f"error: {printable(message)}", file=sys.stderr)
    return status
