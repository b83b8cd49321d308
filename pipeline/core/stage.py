"""How a stage lives and dies: it takes its name from the command line, and a killed `dvc` takes it
along."""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import UserError, run

SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


def stage(main: Callable[..., object], named: bool = True) -> None:
    """Run `main(NAME)` for `python -m stages.X NAME`, or `main()` for a stage without a name;
    errors as in `errors.run`.

    DVC removes a stage's outputs before it starts the stage, so an error says how to get the last
    ones back.
    """
    collect_seldom()
    die_with_dvc()
    run(lambda: _with_the_way_back(main, *([_name()] if named else [])))


def _with_the_way_back(main: Callable[..., object], *names: str) -> None:
    try:
        main(*names)
    except UserError as error:
        made_before = os.environ.get("DVC_STAGE", "")
        if not _is_locked(made_before):
            raise
        raise UserError(
            f"{error} (its last outputs are kept: dvc checkout {made_before})"
        ) from None


def _is_locked(stage: str) -> bool:
    """Whether dvc.lock knows outputs of a stage."""
    try:
        return bool(stage) and f"\n  {stage}:\n" in Path("dvc.lock").read_text(encoding="utf-8")
    except OSError:
        return False


def collect_seldom() -> None:
    """Importing torch or pandas makes a million lasting objects, which Python's default would visit
    again and again."""
    gc.set_threshold(100_000, 20, 20)


def _name() -> str:
    if len(sys.argv) != 2:
        raise UserError(
            f"usage: python -m stages.{os.path.basename(sys.argv[0]).removesuffix('.py')} NAME"
        )
    return sys.argv[1]


def die_with_dvc(interval: float = 0.5) -> None:
    """Kill this process once the `dvc` that started it is gone.

    DVC runs a stage through a shell, and SIGTERM or SIGKILL to dvc alone leaves both alive (an
    orphan that goes on writing). So the process above the shells is watched; a polling thread works
    on every system, unlike PDEATHSIG.
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
