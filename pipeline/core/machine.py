"""The machine that a process runs on: its device, its decoding threads, and its memory allocator.

None of these is a key of params.yaml, because none of them changes what is asked for.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from pipeline.core.errors import UserError


def pick_device(chosen: str = "") -> str:
    """Return `CAPTIONLAB_DEVICE` if it is set, else cuda if there is a GPU, else cpu. Also set up
    the allocator with `keep_buffers`.

    Args:
        chosen: a device that was already picked in this way; it is used instead.
    """
    import torch

    keep_buffers()
    name = chosen or os.environ.get("CAPTIONLAB_DEVICE")
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"CAPTIONLAB_DEVICE={name} cannot be used ({str(error).splitlines()[0]}): "
            "unset it or name cpu"
        ) from None
    return name


def multiplies_bfloat16(device: str) -> bool:
    """Return whether the device has its own instructions for bfloat16 matrices. If so, bfloat16 is
    the faster `train.precision`."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def let_threads_sleep() -> None:
    """Let torch's threads sleep until there is work for them. Call this before torch is imported.

    Otherwise they would spin for a while, on cores that decode pictures at the same time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def ahead(pool: ThreadPoolExecutor, work: Any, items: Iterable[Any], depth: int) -> Iterator[Any]:
    """Like pool.map, but at most `depth` results wait in memory."""
    waiting: list[Future[Any]] = []
    queue = iter(items)
    waiting.extend(pool.submit(work, item) for item in islice(queue, depth))
    while waiting:
        yield waiting.pop(0).result()
        waiting.extend(pool.submit(work, item) for item in islice(queue, 1))


# Option numbers of glibc's mallopt.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4


def keep_buffers() -> None:
    """Keep large freed buffers for reuse. Call this before Arrow is imported: its own allocator
    would keep as much again.

    Otherwise glibc returns large buffers to the system and requests them again. That causes 9,808
    page faults per image, and 2-6 times the run time on a CPU.
    """
    _set({MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1})


def give_back() -> None:
    """Return large freed blocks to the system. Call this before pandas is imported.

    Arrow's own allocator keeps up to 30 MB more than the system's. glibc returns a large block by
    itself. By default, though, every freed block raises the size that it counts as large, and holes
    remain in its heap.
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


def peak_memory(device: str) -> int:
    """Return the largest number of bytes that this process has held: of GPU memory if `device` is a
    GPU, else of main memory."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def workers() -> int:
    """Return the number of threads that decode images: `CAPTIONLAB_WORKERS`, or one per core.

    Raises:
        UserError: the variable is not a whole number above 0.
    """
    text = os.environ.get("CAPTIONLAB_WORKERS") or str(os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"CAPTIONLAB_WORKERS={text}: expected a whole number of threads, 1 or more")
    return int(text)


def processes() -> int:
    """Return the number of processes that train one decoder together: `CAPTIONLAB_PROCESSES`, or 1.

    Raises:
        UserError: the variable is neither a whole number above 0 nor `gpus`, or it is `gpus` and no
            GPU is visible.
    """
    text = os.environ.get("CAPTIONLAB_PROCESSES") or "1"
    if text == "gpus":
        if not (found := gpus()):
            raise UserError(
                "CAPTIONLAB_PROCESSES=gpus: no GPU is visible here, name a number of processes"
            )
        return found
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"CAPTIONLAB_PROCESSES={text}: expected a whole number of processes, 1 or more, or gpus"
        )
    return int(text)


def gpus() -> int:
    """Return the number of visible GPUs, without starting any."""
    import torch

    return torch.cuda.device_count()
