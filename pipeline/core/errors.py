"""A person's mistake becomes one line on stderr and exit status 2; a bug keeps its traceback."""

import errno
import sys
from collections.abc import Callable
from textwrap import shorten


class UserError(Exception):
    """What is wrong, where (file, row, key) and what to do, in one line."""


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def brief(error: BaseException) -> str:
    """A library's error inside a line of ours: its type and the beginning of what it says."""
    return shorten(f"{type(error).__name__}: {error}", 160)


def run(main: Callable[[], object]) -> None:
    """Run an entry point; exit 2 on a UserError or a full disk, 130 on Ctrl-C."""
    try:
        main()
    except UserError as error:
        sys.exit(_say(one_line(error), 2))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; run the same command again to continue", 130))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        sys.exit(
            _say(f"the disk is full{where}: free some space, then run the same command again", 2)
        )


def _say(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return status
