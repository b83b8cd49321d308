"""The machine a process runs on: its device, its decoding threads, and the allocator that its
memory comes from.

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
    """`CAPTIONLAB_DEVICE` if set, else cuda where there is one, else cpu; also readies the
    allocator.

    Args:
        chosen: one that was picked from these already.
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
    """Whether matrices of bfloat16 have instructions of their own there, so that train.precision
    bfloat16 is the faster one."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def let_threads_sleep() -> None:
    """To be called before torch is imported: its threads then sleep until there is work for them.

    They would spin for a while, on cores where pictures are decoded meanwhile.
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


TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"as glibc's mallopt numbers them"


def keep_buffers() -> None:
    """To be called before Arrow is imported, whose own allocator would keep as much once more.

    Without it glibc gives large buffers back and asks for them again: 9,808 page faults per image,
    2-6 times the run time on a CPU.
    """
    _set({MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1})


def give_back() -> None:
    """To be called before pandas is imported.

    Arrow's own allocator keeps up to 30 MB more than the system's. glibc gives a large block back
    alone, but raises what it calls large with every block that was freed, and holes remain in its
    heap.
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
    """Bytes that this process has held at most: of the GPU where it is one, else of main memory."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def workers() -> int:
    """Threads that decode images: `CAPTIONLAB_WORKERS` or one per core.

    Raises:
        UserError: that is no whole number above 0.
    """
    text = os.environ.get("CAPTIONLAB_WORKERS") or str(os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"CAPTIONLAB_WORKERS={text}: expected a whole number of threads, 1 or more")
    return int(text)


def processes() -> int:
    """Processes that train one decoder together: `CAPTIONLAB_PROCESSES`, or one.

    Raises:
        UserError: that is no whole number above 0 and not `gpus`, or there is no GPU.
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
    """GPUs that are visible, counted without starting any."""
    import torch

    return torch.cuda.device_count()
