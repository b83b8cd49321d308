"""How a stage lives and dies: it takes its name from the command line, and a killed `dvc` takes it
along."""

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, run
from pipeline.core.leftovers import sweep

PATIENCE = 10.0
"seconds that a stage waits for another process that runs the same stage"
OUTPUTS: list[Path] = []
"folders in which killed stages leave parts; stages/__init__.py names them"
GRACE = 1.0
"seconds in which a stage whose dvc is gone may remove what it has half written"
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


def stage(main: Callable[..., object], named: bool = True) -> None:
    """Run `main(NAME)` for `python -m stages.X NAME`, or `main()` for a stage without a name;
    errors as in `errors.run`.

    DVC removes a stage's outputs before it starts the stage, so an error says how to get the last
    ones back.
    """
    collect_seldom()
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores it
        signal.signal(signal.SIGINT, interrupt)
    run(lambda: _run(main, *([_name()] if named else [])))


_interrupted = threading.Event()


def interrupt(*_: object) -> None:
    """SIGTERM ends a stage as Ctrl-C does, so that nothing half-written stays."""
    _interrupted.set()
    raise KeyboardInterrupt


def _run(main: Callable[..., object], *names: str) -> None:
    try:
        name = "@".join([Path(sys.argv[0]).stem, *names])
        _check_may_run(name)
        with only_writer(name):
            sweep(OUTPUTS)
            main(*names)
    except Exception as error:
        if _interrupted.is_set():  # a library in C makes another error of it, as matplotlib does
            raise KeyboardInterrupt from None
        made_before = os.environ.get("DVC_STAGE", "")
        if not isinstance(error, UserError) or not _is_locked(made_before):
            raise
        raise UserError(
            f"{error} (its last outputs are kept: dvc checkout {made_before})"
        ) from None


def _check_may_run(name: str) -> None:
    """`CAPTIONLAB_ONLY` names the stages that may compute, separated by commas.

    Raises:
        UserError: it is set and does not name this one.
    """
    allowed = os.environ.get("CAPTIONLAB_ONLY")
    if allowed is not None and name not in allowed.split(","):
        raise UserError(
            f"CAPTIONLAB_ONLY does not allow {name}, and DVC's run cache holds no such run: unset "
            "it to compute, or fetch the run cache (dvc pull --run-cache)"
        )


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


@contextmanager
def only_writer(name: str) -> Iterator[None]:
    """Hold the stage `name` of this workspace; the system lets go of it when the process ends.

    Raises:
        UserError: another process still holds it after `PATIENCE` seconds. A stage whose dvc was
            killed ends within one, so that is a second run by hand.
    """
    folder = Path(".dvc/tmp")
    if not folder.is_dir():  # no DVC workspace: nothing else runs stages here
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f"captionlab-{name.replace('/', '-')}.lock", is_singleton=True)
    try:
        with lock.acquire(timeout=PATIENCE):
            yield
    except Timeout:
        raise UserError(f"another process is running {name} here: wait for it, or end it") from None


def die_with_dvc(interval: float = 0.5) -> None:
    """Kill this process as soon as the `dvc` that started it is gone, and at once if it is already.

    DVC runs a stage through a shell, and SIGTERM or SIGKILL to dvc alone leaves both alive: an
    orphan that goes on writing. A polling thread works on every system, unlike PDEATHSIG. It has to
    start before anything slow is imported, so stages/__init__.py calls this.
    """
    if "DVC_STAGE" not in os.environ:
        return
    starter = _starter()
    if starter is None:
        _end()
    threading.Thread(target=_watch, args=(starter, interval), daemon=True).start()


def end_with(process: int, interval: float = 0.5) -> None:
    """End this process as soon as another one is gone, by its id, as `die_with_dvc` does."""
    import psutil

    try:
        starter = psutil.Process(process)
    except psutil.NoSuchProcess:
        _end()
    threading.Thread(target=_watch, args=(starter, interval), daemon=True).start()


def _starter() -> Any:  # psutil.Process | None
    """The process that runs this stage for DVC; None if it is gone.

    An orphan's parent is whoever adopts orphans, so the parent alone tells nothing. DVC writes the
    id of its own process into .dvc/tmp/rwlock while a stage runs, and one of the ids there must be
    above this process. Where there is no such file, it is the first parent that is no shell.
    """
    import psutil

    above = psutil.Process().parents()
    running = _ids_of_dvc()
    if not running:
        return next((parent for parent in above if parent.pid > 1 and not _is_shell(parent)), None)
    return next((parent for parent in above if parent.pid in running), None)


def _ids_of_dvc() -> set[int]:
    """Process ids that hold anything in this repository."""
    try:
        path = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc/tmp/rwlock"
        held = json.loads(path.read_text(encoding="utf-8"))
        kinds = [kind for entry in held.values() for kind in entry.values()]
        holders = [one for kind in kinds for one in (kind if isinstance(kind, list) else [kind])]
        return {holder["pid"] for holder in holders}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # captionlab doctor says it
        return set()


def _is_shell(process) -> bool:  # type: ignore[no-untyped-def]
    return process.name() in SHELLS


def _watch(starter, interval: float) -> None:  # type: ignore[no-untyped-def]
    while starter.is_running() and starter.status() != "zombie":
        time.sleep(interval)
    _end()


def _end() -> None:
    """End this process, with SIGKILL if it takes longer than `GRACE`; and first kill what it has
    started, for a Java would live on for some seconds."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    if signal.getsignal(signal.SIGTERM) is interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
