"""Where a process takes memory from: stages that hold tables give back what they need no more."""

import ctypes
import os
import sys

MMAP_THRESHOLD = -3
"as glibc's mallopt numbers it"


def give_back() -> None:
    """To be called before pandas is imported.

    Arrow's own allocator keeps up to 30 MB more than the system's. glibc gives a large block back alone, but raises what it
    calls large with every block that was freed, and holes remain in its heap.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(MMAP_THRESHOLD, 2**20)
