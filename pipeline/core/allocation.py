"""Where a process takes memory from: stages with a model keep what they freed, those that hold tables give it back."""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"as glibc's mallopt numbers them"


def keep_buffers() -> None:
    """To be called before Arrow is imported, whose own allocator would keep as much once more.

    Without it glibc gives large buffers back and asks for them again: 9,808 page faults per image, 2-6 times the run time on a
    CPU.
    """
    _set({MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1})


def give_back() -> None:
    """To be called before pandas is imported.

    Arrow's own allocator keeps up to 30 MB more than the system's. glibc gives a large block back alone, but raises what it
    calls large with every block that was freed, and holes remain in its heap.
    """
    _set({MMAP_THRESHOLD: 2**20})


def _set(options: dict[int, int]) -> None:
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        for option, value in options.items():
            libc.mallopt(option, value)
