"""What the machine can hold now, against the least that a step needs.

What is refused here would end in a traceback hours later, or in the kernel killing the process. The
needs are floors: what must be held at once, whatever else is. A machine may still hold more than it
says (swap, a disk that is emptied meanwhile), hence `ANYWAY`.
"""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.core.errors import UserError, say

ANYWAY = "CAPTIONLAB_OVERSIZE"
"the variable that turns a refusal into a warning: DVC passes no option to a stage"
CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
"""where Linux says what a container may hold, what it holds, and what of that is a cache of files,
which it gives up when asked; in its second and its first version"""


def free_memory(device: str) -> int:
    """Bytes that a new process can have: of the GPU where it is one, else of main memory, in a
    container of what that may hold."""
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
    """Bytes for this user on the disk that a path is on, or would be."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def memory_problem(
    what: str, need: Callable[[int], int], asked: int, key: str, device: str
) -> str | None:
    """Why a step does not fit into memory, and which value of `key` would, or None.

    Args:
        need: a value of the key -> bytes, the larger the more.
        asked: its value now.
    """
    free = free_memory(device)
    if need(asked) <= free:
        return None
    place = "this GPU's" if device.startswith("cuda") else "this machine's"
    text = f"{what} needs {amount(need(asked))} of memory at least, {place} free memory is "
    return f"{text}{amount(free)}: {_largest(need, asked, key, free)}"


def _largest(need: Callable[[int], int], asked: int, key: str, free: int) -> str:
    """The largest value that fits, by bisection."""
    fits, over = 0, asked
    while over - fits > 1:
        middle = (fits + over) // 2
        fits, over = (middle, over) if need(middle) <= free else (fits, middle)
    if fits:
        return f"{key} {fits} would fit"
    return f"{key} 1 does not fit either, take a smaller model"


def disk_problem(what: str, need: int, path: Path, cure: str) -> str | None:
    """Why something does not fit on the disk of a path, and what to do, or None."""
    free = free_disk(path)
    if need <= free:
        return None
    return f"{what} takes {amount(need)}, the disk of {path} has {amount(free)} left: {cure}"


def refuse(problem: str | None) -> None:
    """Raises a UserError over a problem; `ANYWAY` makes it a warning."""
    if not problem:
        return
    if os.environ.get(ANYWAY) == "1":
        say(f"warning: {problem}; {ANYWAY}=1 goes on", file=sys.stderr)
        return
    raise UserError(f"{problem}; {ANYWAY}=1 tries it all the same")


def amount(count: int) -> str:
    """Decimal units, three digits.

    Example:
        >>> amount(16_700_000_000)
        '16.7 GB'
    """
    for unit, of_unit in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= of_unit:
            return f"{count / of_unit:#.3g}".rstrip(".") + f" {unit}"
    return f"{count} B" if count else "0"
