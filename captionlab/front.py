"""The server's two processes: one answers clients, the other one runs the network.

In one process they would share Python's lock. A network lets it go some thousand times while it
captions a batch, and each time waits until whoever took it lets go: a thread that reads a JSON of
30 MB, say, or decodes its base64, in steps of up to a tenth of a second. A batch that takes a
network 0.15 s of a core then took 11 s.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

HANDED_ON = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger("captionlab.serve")


def run_in_front(captioner: Any, front: Callable[[], None]) -> None:
    """Call `front` in a fork of this process, whose captioner has this one run the network; outside
    Linux, where a fork is not safe, call it here.

    Each process ends with the other one, and a signal to this one ends both.

    Args:
        captioner: whose `say` is called by `front`, by one thread at a time. The fork must not run
            a network itself: OpenMP's threads and what a GPU holds stay behind.
    """
    if not sys.platform.startswith("linux"):
        front()
        return
    here, there = Pipe()
    watched, held = os.pipe()
    process = os.fork()
    if process == 0:
        here.close()
        os.close(held)
        _be_front(captioner, front, there, watched)
    there.close()
    os.close(watched)
    got, before = _hand_on(process)
    with suppress(EOFError, ConnectionError):  # the front has ended
        while True:
            here.send(_answer(captioner.say, here.recv()))
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    for number in got:  # now it does here what it always does
        signal.signal(number, before[number])
        signal.raise_signal(number)
    if status:
        sys.exit(abs(status))


def _hand_on(process: int) -> tuple[list[int], dict[int, Any]]:
    """From now on, signals reach the process; those that came, and what they did before."""
    got: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        got.append(number)
        with suppress(ProcessLookupError):
            os.kill(process, number)

    return got, {number: signal.signal(number, hand_on) for number in HANDED_ON}


def _answer(say: Callable[[Any], Any], pictures: np.ndarray) -> Any:
    """The captions of pictures (B, 3, S, S), or why there are none."""
    import torch

    try:
        return say(list(torch.from_numpy(pictures)))
    except Exception as error:
        log.exception("the network failed")
        return RuntimeError(f"{type(error).__name__}: {error}")


class Elsewhere:
    """A captioner's `say`, answered by the process at the other end."""

    def __init__(self, there: Connection):
        self.there = there

    def __call__(self, pixels: list[Any]) -> Any:
        self.there.send(np.stack([picture.numpy() for picture in pixels]))
        found = self.there.recv()
        if isinstance(found, Exception):
            raise found
        return found


def _be_front(captioner: Any, front: Callable[[], None], there: Connection, watched: int) -> None:
    """Never returns: what waits in the fork's stack is for the other process to do."""
    status = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C is handed on like any signal
        threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
        captioner.say = Elsewhere(there)
        front()
        status = 0
    except KeyboardInterrupt:  # of uvicorn, when it has closed all
        status = 0
    except Exception:
        log.exception("the server failed")
    finally:
        sys.stdout.flush()
        os._exit(status)


def _end_with(watched: int) -> None:
    """The other process never writes: its end is the end of the file."""
    os.read(watched, 1)
    os._exit(1)
