"""Large pictures are decoded in processes of their own, which give way to everything else.

A thread would share Python's lock and the priority of the server: while two strangers have pictures
of 12 million pixels decoded, a third waits for the captions of a small one on what the cores have
left. A process can have a low priority, a limit of memory and one of time, and a decoder that
crashes ends nothing but itself.

Run as a module this file is such a process, with a socket to the server as its standard input. A
request is a picture's file and the part of its width at which it is decoded; an answer is width,
height and RGB, or no width, and the length of a text that says why there is no picture.
"""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import LifoQueue
from struct import Struct
from time import process_time
from typing import Any

from PIL import Image

import pipeline
from pipeline.captioner.served import ServedPicture
from pipeline.images.reading import ImageError

LARGE = 1_000_000
"pixels to decode, from which on a picture is large; in a thread that many take some 10 ms"
PRIORITY = 10
"added to the server's own niceness: a tenth of a core where others want all of it"
MEMORY = 2_000_000_000
"bytes of addresses; the largest picture takes some 300 MB while it is decoded"
SECONDS = 20
"of a core for one picture; the slowest allowed ones take half a second"
REQUEST, ANSWER = Struct("!QB"), Struct("!II")


class DecodedApart:
    """Pictures -> RGB in a few processes, which start when they are first needed and end with this
    one.

    Args:
        processes: pictures that are decoded at the same time; further calls wait.
    """

    def __init__(self, processes: int):
        self._idle = LifoQueue[_Process | None]()
        for _ in range(processes):
            self._idle.put(None)

    def __call__(self, picture: ServedPicture) -> Image.Image:
        """What `picture.decode()` gives.

        Raises:
            ImageError: as `decode` does, or the process ended (a limit, a crash).
        """
        if not sys.platform.startswith("linux"):
            return picture.decode()
        process = self._idle.get()
        try:
            process = process or _Process()
            return process.decode(picture)
        except (EOFError, OSError):
            if process:
                process.end()
            process = None
            raise ImageError("it took too much time or memory to decode") from None
        finally:
            self._idle.put(process)


class _Process:
    def __init__(self) -> None:
        self.peer, theirs = socket.socketpair()
        code = os.pathsep.join([str(Path(pipeline.__path__[0]).parent), *sys.path])
        about = {**os.environ, "PYTHONPATH": code, "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=theirs.fileno(), env=about
            )

    def decode(self, picture: ServedPicture) -> Image.Image:
        self.peer.sendall(REQUEST.pack(len(picture.content), picture.reduced))
        self.peer.sendall(picture.content)
        width, height = ANSWER.unpack(_received(self.peer, ANSWER.size))
        if not width:
            raise ImageError(_received(self.peer, height).decode())
        pixels: Any = _received(self.peer, 3 * width * height)
        return Image.frombytes("RGB", (width, height), pixels)

    def end(self) -> None:
        self.peer.close()
        self.process.kill()
        self.process.wait()


def _received(peer: socket.socket, size: int) -> bytearray:
    """All of it in one call, which leaves Python's lock to others."""
    content = bytearray(size)
    if size and peer.recv_into(content, size, socket.MSG_WAITALL) < size:
        raise EOFError
    return content


def main() -> None:
    import resource

    os.nice(PRIORITY)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with socket.socket(fileno=os.dup(0)) as server, suppress(ConnectionError):  # it has ended
        while head := server.recv(REQUEST.size, socket.MSG_WAITALL):
            limit = int(process_time()) + SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            size, reduced = REQUEST.unpack(head)
            server.sendall(_answer(bytes(_received(server, size)), reduced))


def _answer(content: bytes, reduced: int) -> bytes:
    try:
        image = ServedPicture(content, 0, reduced).decode()
    except ImageError as error:
        text = str(error).encode()
        return ANSWER.pack(0, len(text)) + text
    return ANSWER.pack(*image.size) + image.tobytes()


if __name__ == "__main__":
    main()
