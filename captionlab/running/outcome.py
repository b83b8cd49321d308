"""Find out how a job ended, from its exit status and what it printed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.errors import printable

# Bytes that are read from the end of a log.
SHOWN = 64_000
# What DVC prints if another `dvc` was faster. A second try gets through.
LOCKED = ("Unable to acquire lock", "it is being blocked by", "is busy")
EXITED = re.compile(r"exited with (-?\d+)")


@dataclass(frozen=True)
class Outcome:
    stage: str
    state: Literal["done", "failed", "died"]
    "`died`: its process or its machine was ended from outside, so another try may succeed."
    said: str = ""
    "Why it did not end well, in one line."


def outcome_of(stage: str, status: int, log: str) -> Outcome:
    """Return the outcome of a `dvc` command.

    Args:
        status: exit status of the process, negative for a signal.
        log: the end of what it printed.
    """
    if status == 0:
        return Outcome(stage, "done")
    exited = EXITED.findall(log)
    stage_status = int(exited[-1]) if exited else 0
    killed = status < 0 or stage_status < 0 or stage_status in (130, 137, 143)
    if killed:
        return Outcome(stage, "died", f"its process was killed (status {stage_status or status})")
    if any(words in log for words in LOCKED):
        return Outcome(stage, "died", "DVC's lock was held")
    return Outcome(stage, "failed", last_error(log))


def last_error(log: str) -> str:
    """Return the line that says why: the stage's own, or the last of a traceback, or DVC's."""
    lines = [line for line in lines_of(log) if line]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    dvc = [n for n, line in enumerate(lines) if line.startswith("ERROR: ")]
    if own:
        return printable(own[-1])
    if dvc and (EXITED.search(lines[dvc[0]]) is None or dvc[0] == 0):
        return printable(lines[dvc[0]].removeprefix("ERROR: "))
    return printable(lines[dvc[0] - 1] if dvc else lines[-1] if lines else "it said nothing")


def lines_of(log: str) -> list[str]:
    """Return the lines as a terminal finally shows them: overwritten lines in their last state."""
    return [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in log.split("\n")]


def end_of(log: Path) -> str:
    """Return the last `SHOWN` bytes of a log; '' if there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - SHOWN))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
