"""How a stage lives and dies: it takes its name from the command line, and a killed `dvc` takes it along."""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from pipeline.core.errors import UserError, run

SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


def stage(main: Callable[[str], object]) -> None:
    """Run `main(NAME)` for `python -m stages.X NAME`; errors as in `errors.run`."""
    collect_seldom()
    die_with_dvc()
    run(lambda: main(_name()))


def collect_seldom() -> None:
    """Importing torch or pandas makes a million lasting objects, which Python's default would visit again and again."""
    gc.set_threshold(100_000, 20, 20)


def _name() -> str:
    if len(sys.argv) != 2:
        raise UserError(f"usage: python -m stages.{os.path.basename(sys.argv[0]).removesuffix('.py')} NAME")
    return sys.argv[1]


def die_with_dvc(interval: float = 0.5) -> None:
    """Kill this process once the `dvc` that started it is gone.

    DVC runs a stage through a shell, and SIGTERM or SIGKILL to dvc alone leaves both alive (an orphan that goes on
    writing). So the process above the shells is watched; a polling thread works on every system, unlike PDEATHSIG.
    """
    if "DVC_STAGE" not in os.environ:
        return
    watched = _parent_above_shells()
    if watched is not None:
        threading.Thread(target=_watch, args=(watched, interval), daemon=True).start()


def _parent_above_shells():  # type: ignore[no-untyped-def]
    import psutil

    for parent in psutil.Process().parents():
        if parent.name() not in SHELLS:
            return parent
    return None


def _watch(parent, interval: float) -> None:  # type: ignore[no-untyped-def]
    while parent.is_running() and parent.status() != "zombie":
        time.sleep(interval)
    os.kill(os.getpid(), signal.SIGKILL)
