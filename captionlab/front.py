"""Run the server as two processes: one answers clients, and the other runs the network.

In one process, both would share Python's global lock (GIL). A network releases the lock some
thousand times per batch, and each time waits until it is free again. Another thread may hold it
meanwhile for up to 0.1 s, for example to parse a JSON of 30 MB or to decode its base64. A batch
that needs 0.15 s of a core then took 11 s.
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
    """Call `front` in a fork of this process, while this process runs the network for it.

    A fork is safe only on Linux; elsewhere, `front` is called in this process. Each process ends
    if the other ends, and a signal to this process ends both.

    Args:
        captioner: `front` calls its `say_with` from one thread at a time. The fork must not run a
            network itself, because it has neither OpenMP's threads nor the GPU's contents.
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
            here.send(_answer(captioner.say_with, *here.recv()))
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    for number in got:  # now it has its usual effect here
        signal.signal(number, before[number])
        signal.raise_signal(number)
    if status:
        sys.exit(abs(status))


def _hand_on(process: int) -> tuple[list[int], dict[int, Any]]:
    """Forward signals to the process from now on.

    Return the list of signals received, which grows, and the handlers that were set before.
    """
    got: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        got.append(number)
        with suppress(ProcessLookupError):
            os.kill(process, number)

    return got, {number: signal.signal(number, hand_on) for number in HANDED_ON}


def _answer(
    say_with: Callable[[Any, Any], Any], pictures: np.ndarray, decoding: dict[str, Any]
) -> Any:
    """Return the captions of pictures (B, 3, S, S), or the error that prevented them."""
    import torch

    try:
        return say_with(list(torch.from_numpy(pictures)), decoding)
    except Exception as error:
        log.exception("the network failed")
        return RuntimeError(f"{type(error).__name__}: {error}")


class Elsewhere:
    """A captioner's `say_with` that the process at the other end answers."""

    def __init__(self, there: Connection):
        self.there = there

    def __call__(self, pixels: list[Any], decoding: dict[str, Any]) -> Any:
        self.there.send((np.stack([picture.numpy() for picture in pixels]), decoding))
        found = self.there.recv()
        if isinstance(found, Exception):
            raise found
        return found


def _be_front(captioner: Any, front: Callable[[], None], there: Connection, watched: int) -> None:
    """Call `front`, then end the process. The callers on the fork's stack must not continue."""
    status = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C arrives only when forwarded, like any signal
        threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
        captioner.say_with = Elsewhere(there)
        front()
        status = 0
    except KeyboardInterrupt:  # uvicorn raises it after closing everything
        status = 0
    except Exception:
        log.exception("the server failed")
    finally:
        sys.stdout.flush()
        os._exit(status)


def _end_with(watched: int) -> None:
    """End this process if the other ends, which closes the pipe. Nobody ever writes to it."""
    os.read(watched, 1)
    os._exit(1)
