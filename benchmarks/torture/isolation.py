"""Run one call in a process of its own: its status, its output, its cost, and what it left."""

import atexit
import ctypes
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# Largest time of an input. A stage of the tiny workspace takes about one second.
SECONDS = 30.0
# Largest memory of an input, beyond that of the imports.
MEGABYTES = 1500
# PR_SET_CHILD_SUBREAPER of prctl. Orphans become children of this process, so none is missed.
ADOPT = 36
# The beginning of lines that are not errors.
SAID = "warning: "
# Signals that a fork accepts only after it is set up.
WAITING = {signal.SIGINT, signal.SIGTERM}
# Seconds after the end of a process within which its own processes must end.
LINGER = 1.0


@dataclass(frozen=True)
class Outcome:
    status: int
    "Exit status of the process. If a signal ended it, the negative number of the signal."
    seconds: float
    megabytes: float
    "Peak of its memory, without that of the imports."
    out: str
    err: str
    left: list[str]
    "Processes that outlived it, and files in its folder for temporary files."


@dataclass(frozen=True)
class Running:
    """A call that has been started."""

    pid: int
    began: float
    place: Path
    base: float
    "Memory, in megabytes, of the process from which it was forked."

    def wait(self, seconds: float = SECONDS) -> Outcome:
        """Wait for its end and return the outcome. A call that takes longer than `seconds`, or too
        much memory, gets SIGKILL."""
        status, usage = self._ended(seconds)
        took = time.monotonic() - self.began
        out, err = (
            (self.place / name).read_text(encoding="utf-8", errors="replace")
            for name in ("out", "err")
        )
        temporary = [f"tmp/{path.name}" for path in (self.place / "tmp").iterdir()]
        peak = max(0.0, usage.ru_maxrss / 1024 - self.base)
        return Outcome(status, took, peak, out, err, _orphans() + temporary)

    def _ended(self, seconds: float) -> tuple[int, Any]:
        while True:
            pid, code, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(code), usage
            used = _resident(self.pid) - self.base
            if time.monotonic() - self.began > seconds or used > 2 * MEGABYTES:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)


def start(call: Callable[[], object], place: Path, cwd: Path) -> Running:
    """Fork, and run `call` in `cwd` as an entry point. Its status is that of `python -m ...`.

    Args:
        place: Folder for out, err and tmp/.
    """
    ctypes.CDLL(None).prctl(ADOPT, 1)
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    base, began = _resident(os.getpid()), time.monotonic()
    for name in ("out", "err"):
        (place / name).touch()
    # A signal that comes before the fork is set up must wait, because it is meant for the call.
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITING)
    pid = os.fork()
    if not pid:
        os._exit(_child(call, place, cwd))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING)
    return Running(pid, began, place, base)


def _child(call: Callable[[], object], place: Path, cwd: Path) -> int:
    status = 1
    try:
        atexit._clear()  # Drop the handlers of the torture itself.
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (
            open(n, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            for n in (1, 2)
        )
        os.environ["TMPDIR"] = tempfile.tempdir = str(place / "tmp")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(cwd)
        status = _status(call)
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def _status(call: Callable[[], object]) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING)
        call()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # Before the stage has begun, Python itself ends like this.
        return 130
    return 0


def _resident(pid: int) -> float:
    with suppress(psutil.Error):
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    return 0.0


def _orphans() -> list[str]:
    """Return the processes that are still alive after LINGER seconds, and kill them."""
    deadline = time.monotonic() + LINGER
    while (alive := _alive()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    _alive()
    return [f"process {name}" for process in alive if (name := _name(process))]


def _alive() -> list[psutil.Process]:
    """Return all descendants of this process that have not ended."""
    alive = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
            else:
                alive.append(child)
    return alive


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "that has ended"


def faults(found: Outcome, several: bool = False) -> list[str]:
    """Return what is wrong with the outcome of a hostile input.

    Args:
        several: Whether each of several pictures may have its own line.
    """
    out = []
    if found.status not in (0, 2):
        out.append(f"status {found.status}")
    if "Traceback (most recent" in found.out + found.err:
        out.append("a traceback")
    told = [line for line in found.err.splitlines() if line and not line.startswith(SAID)]
    errors = [line for line in told if line.startswith("error: ")]
    if found.status == 2 and (told != errors or not errors or (len(errors) > 1 and not several)):
        out.append(f"{len(told)} lines on stderr, {len(errors)} of them errors")
    if found.seconds > SECONDS:
        out.append(f"{found.seconds:.0f} s")
    if found.megabytes > MEGABYTES:
        out.append(f"{found.megabytes:.0f} MB")
    return out + [f"left {name}" for name in found.left]
