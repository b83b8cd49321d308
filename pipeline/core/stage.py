"""How a stage starts and ends: it takes its name from the command line, and it ends when its `dvc`
is killed."""

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

# Seconds that a stage waits for another process that runs the same stage.
PATIENCE = 10.0
# Folders in which killed stages leave partial outputs; stages/__init__.py adds them.
OUTPUTS: list[Path] = []
# Seconds that a stage has to remove partial outputs after its dvc is gone.
GRACE = 1.0
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


def stage(main: Callable[..., object], named: bool = True) -> None:
    """Run `main(NAME)` for `python -m stages.X NAME`, or `main()` for a stage without a name.
    Errors are handled as in `errors.run`.

    DVC removes a stage's outputs before it starts the stage, so an error says how to get the
    previous ones back.
    """
    collect_seldom()
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores it
        signal.signal(signal.SIGINT, interrupt)
    run(lambda: _run(main, *([_name()] if named else [])))


_interrupted = threading.Event()


def interrupt(*_: object) -> None:
    """End a stage on SIGTERM as Ctrl-C does, so that no partial output stays."""
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
        if _interrupted.is_set():  # C libraries turn it into another error, as in matplotlib
            raise KeyboardInterrupt from None
        made_before = os.environ.get("DVC_STAGE", "")
        if not isinstance(error, UserError) or not _is_locked(made_before):
            raise
        raise UserError(
            f"{error} (its last outputs are kept: dvc checkout {made_before})"
        ) from None


def _check_may_run(name: str) -> None:
    """Check that `CAPTIONLAB_ONLY`, a comma-separated list of the stages that may compute, allows
    this one.

    Raises:
        UserError: the variable is set and does not name this stage.
    """
    allowed = os.environ.get("CAPTIONLAB_ONLY")
    if allowed is not None and name not in allowed.split(","):
        raise UserError(
            f"CAPTIONLAB_ONLY does not allow {name}, and DVC's run cache holds no such run: unset "
            "it to compute, or fetch the run cache (dvc pull --run-cache)"
        )


def _is_locked(stage: str) -> bool:
    """Return whether dvc.lock lists outputs of a stage."""
    try:
        return bool(stage) and f"\n  {stage}:\n" in Path("dvc.lock").read_text(encoding="utf-8")
    except OSError:
        return False


def collect_seldom() -> None:
    """Run the garbage collector rarely. Importing torch or pandas creates a million lasting
    objects, which Python's default would visit again and again."""
    gc.set_threshold(100_000, 20, 20)


def _name() -> str:
    if len(sys.argv) != 2:
        raise UserError(
            f"usage: python -m stages.{os.path.basename(sys.argv[0]).removesuffix('.py')} NAME"
        )
    return sys.argv[1]


@contextmanager
def only_writer(name: str) -> Iterator[None]:
    """Hold the lock of stage `name` in this workspace. The system releases it when the process
    ends.

    Raises:
        UserError: another process still holds it after `PATIENCE` seconds. A stage whose dvc was
            killed ends sooner, so the other process is a second run started by hand.
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
    """End this process as soon as the `dvc` that started it is gone, or at once if it already is.

    DVC runs a stage through a shell. SIGTERM or SIGKILL to dvc alone leaves both alive, and the
    orphaned stage goes on writing. A polling thread works on every system, unlike PDEATHSIG. It has
    to start before anything slow is imported, so stages/__init__.py calls this.
    """
    if "DVC_STAGE" not in os.environ:
        return
    starter = _starter()
    if starter is None:
        _end()
    threading.Thread(target=_watch, args=(starter, interval), daemon=True).start()


def end_with(process: int, interval: float = 0.5) -> None:
    """End this process, as `die_with_dvc` does, as soon as the process with the id `process` is
    gone."""
    import psutil

    try:
        starter = psutil.Process(process)
    except psutil.NoSuchProcess:
        _end()
    threading.Thread(target=_watch, args=(starter, interval), daemon=True).start()


def _starter() -> Any:  # psutil.Process | None
    """Return the process that runs this stage for DVC; None if it is gone.

    The parent alone proves nothing, because another process adopts an orphan. DVC writes its own
    process id into .dvc/tmp/rwlock while a stage runs. One of the ids there must be an ancestor of
    this process. Without any ids, the result is the first ancestor that is not a shell.
    """
    import psutil

    above = psutil.Process().parents()
    running = _ids_of_dvc()
    if not running:
        return next((parent for parent in above if parent.pid > 1 and not _is_shell(parent)), None)
    return next((parent for parent in above if parent.pid in running), None)


def _ids_of_dvc() -> set[int]:
    """Return the ids of the processes that hold a lock in this repository."""
    try:
        path = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc/tmp/rwlock"
        held = json.loads(path.read_text(encoding="utf-8"))
        kinds = [kind for entry in held.values() for kind in entry.values()]
        holders = [one for kind in kinds for one in (kind if isinstance(kind, list) else [kind])]
        return {holder["pid"] for holder in holders}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        # `captionlab doctor` reports a damaged file.
        return set()


def _is_shell(process) -> bool:  # type: ignore[no-untyped-def]
    return process.name() in SHELLS


def _watch(starter, interval: float) -> None:  # type: ignore[no-untyped-def]
    while starter.is_running() and starter.status() != "zombie":
        time.sleep(interval)
    _end()


def _end() -> None:
    """Kill the child processes and end this process, with SIGKILL if it takes longer than `GRACE`.
    The children are killed first because a Java process would live on for some seconds."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    if signal.getsignal(signal.SIGTERM) is interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
