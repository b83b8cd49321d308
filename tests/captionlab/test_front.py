"""Two processes serve: one answers clients, the other runs the network. Neither outlives the
other."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from captionlab.front import Elsewhere, _answer
from tests.workspace import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")


def test_the_network_elsewhere_answers_like_one_here_and_its_errors_are_told() -> None:
    here, there = Pipe()

    def say_with(pictures: list[Any], decoding: dict[str, int]) -> list[int]:
        return [decoding["beam"] // int(picture.sum()) for picture in pictures]

    def answer() -> None:
        for _ in range(3):
            here.send(_answer(say_with, *here.recv()))

    thread = threading.Thread(target=answer)
    thread.start()
    elsewhere = Elsewhere(there)
    one = torch.zeros(3, 2, 2, dtype=torch.uint8)
    one[0, 0, 0] = 1
    assert elsewhere([one, one], {"beam": 1}) == [1, 1]
    assert elsewhere([one], {"beam": 7}) == [7]
    with pytest.raises(RuntimeError, match=r"^ZeroDivisionError: "):
        elsewhere([one * 0], {"beam": 1})
    thread.join(5)


SERVER = """
import os, sys, time
from types import SimpleNamespace
from captionlab.front import run_in_front

def front():
    print(os.getpid(), flush=True)
    time.sleep(float(sys.argv[1]))

run_in_front(SimpleNamespace(say_with=None), front)
print("both ended", flush=True)
"""


def start(seconds: float) -> tuple[subprocess.Popen[str], int]:
    """Start the server. Return the process that runs the network, and the id of the process that
    answers clients."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. A zombie counts as ended: its new parent may be slow to
    reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_server_ends_when_it_has_answered_all() -> None:
    process, front = start(0)
    assert process.communicate(timeout=10)[0] == "both ended\n"
    assert process.returncode == 0
    assert has_ended(front)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_one_ends_the_other(number: int) -> None:
    process, front = start(60)
    process.send_signal(number)
    assert process.wait(10) == -number
    deadline = time.monotonic() + 10
    while not has_ended(front):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_front_that_is_killed_ends_the_server() -> None:
    process, front = start(60)
    os.kill(front, signal.SIGKILL)
    assert process.wait(10) == signal.SIGKILL
