"""Compare what the machine can hold now with the minimum that a step needs.

A step that is refused here would fail hours later with a traceback, or the kernel would kill its
process. Each need is a lower bound: what must be held at the same time, whatever else is. A machine
may hold more than it reports (swap, or a disk that is emptied meanwhile); `ANYWAY` is for that
case.
"""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.core.errors import UserError, say

# Environment variable that turns a refusal into a warning. DVC cannot pass an option to a stage.
ANYWAY = "CAPTIONLAB_OVERSIZE"
# Where Linux reports a container's memory: folder, file with the limit, file with the use, and the
# key in memory.stat for the file cache, which the kernel frees on demand. Version 2 of cgroups
# comes first, then version 1.
CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_memory(device: str) -> int:
    """Return the bytes of memory free for a new process: GPU memory if `device` is a GPU, else main
    memory. In a container, its limit applies."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_to_container()])


def _left_to_container() -> list[int]:
    found = []
    for folder, limit, used, cached in CGROUPS:
        with suppress(OSError, ValueError, KeyError):  # ValueError: `max`, which is no limit
            most, held = (int(Path(folder, file).read_text()) for file in (limit, used))
            told = dict(
                line.split() for line in Path(folder, "memory.stat").read_text().splitlines()
            )
            found.append(most - held + int(told[cached]))
    return found


def free_disk(path: Path) -> int:
    """Return the bytes free for this user on the disk that holds `path`, or would hold it."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def memory_problem(
    what: str, need: Callable[[int], int], asked: int, key: str, device: str
) -> str | None:
    """Return why a step does not fit into memory and which value of `key` would fit; None if it
    fits.

    Args:
        need: returns the bytes that a value of the key needs; a larger value needs more.
        asked: the current value of the key.
    """
    free = free_memory(device)
    if need(asked) <= free:
        return None
    place = "this GPU's" if device.startswith("cuda") else "this machine's"
    text = f"{what} needs {amount(need(asked))} of memory at least, {place} free memory is "
    return f"{text}{amount(free)}: {_largest(need, asked, key, free)}"


def _largest(need: Callable[[int], int], asked: int, key: str, free: int) -> str:
    """Return a hint with the largest value that fits, found by bisection."""
    fits, over = 0, asked
    while over - fits > 1:
        middle = (fits + over) // 2
        fits, over = (middle, over) if need(middle) <= free else (fits, middle)
    if fits:
        return f"{key} {fits} would fit"
    return f"{key} 1 does not fit either, take a smaller model"


def disk_problem(what: str, need: int, path: Path, cure: str) -> str | None:
    """Return why something does not fit on the disk of `path` and what to do; None if it fits."""
    free = free_disk(path)
    if need <= free:
        return None
    return f"{what} takes {amount(need)}, the disk of {path} has {amount(free)} left: {cure}"


def refuse(problem: str | None) -> None:
    """Raise a UserError if there is a problem. If the variable `ANYWAY` is 1, print a warning
    instead."""
    if not problem:
        return
    if os.environ.get(ANYWAY) == "1":
        say(f"warning: {problem}; continuing because {ANYWAY}=1", file=sys.stderr)
        return
    raise UserError(f"{problem}; set {ANYWAY}=1 to try anyway")


def amount(count: int) -> str:
    """Return a number of bytes in decimal units, with three significant digits.

    Example:
        >>> amount(16_700_000_000)
        '16.7 GB'
    """
    for unit, of_unit in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= of_unit:
            return f"{count / of_unit:#.3g}".rstrip(".") + f" {unit}"
    return f"{count} B" if count else "0"
