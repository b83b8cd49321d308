"""Large pictures are decoded in processes of their own, which give way to everything else.

A thread would share Python's lock and the priority of the server. While pictures of 12 million
pixels are decoded for two strangers, the small picture of a third would get only what the cores
have left. A process can have a low priority, and limits of memory and time. A decoder that crashes
ends only its own process.

Run as a module, this file is such a process, with a socket to the server as its standard input. A
request holds a picture's file and the divisor of the width at which it is decoded. An answer holds
width, height and RGB. Without a picture, the width is 0, and the height is the length of a text
that says why.
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

# Number of pixels to decode from which a picture is large. In a thread, that many take some 10 ms.
LARGE = 1_000_000
# Added to the server's niceness. The process gets a tenth of a core if others want all of it.
PRIORITY = 10
# Limit of the address space in bytes. The largest picture takes some 300 MB while it is decoded.
MEMORY = 2_000_000_000
# Limit of CPU time for one picture, in seconds. The slowest allowed pictures take half a second.
SECONDS = 20
REQUEST, ANSWER = Struct("!QB"), Struct("!II")


class DecodedApart:
    """Pictures -> RGB in a few processes, which start when first needed and end with this one.

    Args:
        processes: number of pictures that are decoded at the same time; further calls wait.
    """

    def __init__(self, processes: int):
        self._idle = LifoQueue[_Process | None]()
        for _ in range(processes):
            self._idle.put(None)

    def __call__(self, picture: ServedPicture) -> Image.Image:
        """Return what `picture.decode()` returns.

        Raises:
            ImageError: `decode` raised it, or the process ended (a limit or a crash).
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
    """Receive all bytes in one call, which leaves Python's lock to others."""
    content = bytearray(size)
    if size and peer.recv_into(content, size, socket.MSG_WAITALL) < size:
        raise EOFError
    return content


def main() -> None:
    import resource

    os.nice(PRIORITY)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with socket.socket(fileno=os.dup(0)) as server, suppress(ConnectionError):  # server ended
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
