"""The tasks of a Ray cluster: each runs one stage, in a copy of the workspace on its node.

Ray carries this module to the nodes by value (`cloudpickle.register_pickle_by_value`). The head's
version therefore runs on every node, whatever is installed there. The module imports nothing of
this project but `alike`, which travels with it.
"""

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from platform import node
from typing import Any, TypedDict

from pipeline.core.alike import difference

# Errors of a disk that is full or not writable.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
# Python has this argument since 3.11.4.
SAFE: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
# Seconds between two reports of what a stage has printed.
TELL = 1.0


class Parcel(TypedDict):
    """What all tasks of a run share."""

    files: bytes
    "A tar file of the workspace without its data, with .git if there is one."
    versions: dict[str, str]
    "Versions of the head's environment, see `alike`."
    environment: dict[str, str]
    "Environment variables of the stages: the head's CAPTIONLAB_*, MLFLOW_* and the like."
    remote: str
    "Text for .dvc/config.local that adds DVC's remote; '' if there is no remote."
    cache: str
    "The head's cache.dir, absolute."
    checkpoints: str
    "The head's folder of checkpoints, absolute."
    token: str
    "Name of a file in both of these folders. A node that sees the file shares the disk."
    shared: bool
    "Whether all nodes use the head's cache. Otherwise each has its own, linked by the remote."


class Answer(TypedDict):
    status: int
    log: str
    "The end of what the stage has printed."
    notes: dict[str, bytes]
    "Path -> content of the small files beside a training's checkpoint, which tell what it took."


def look(versions: dict[str, str], cache: str, token: str) -> bool:
    """Return whether this node sees the head's cache.

    Raises:
        RuntimeError: its environment differs from the head's.
    """
    if different := difference(versions):
        raise RuntimeError(different)
    return (Path(cache) / token).is_file()


def run_stage(stage: str, lock: bytes, processes: int, parcel: Parcel, logs: Any) -> Answer:
    """Run one stage, after restoring its upstream.

    Args:
        lock: content of the head's dvc.lock.
        processes: number of processes that train together, one per GPU of the task.
        logs: an actor whose `add(stage, text)` receives what the stage prints.

    Raises:
        RuntimeError: the node's environment differs from the head's; the node does not see the
            cache that all others share; or its disk is full or not writable.
    """
    sees = look(parcel["versions"], parcel["cache"], parcel["token"])
    if parcel["shared"] and not sees:
        raise RuntimeError(unseen(node(), parcel["cache"]))
    scratch = scratch_of(parcel)
    with disk_errors(scratch), slot(scratch) as folder:
        prepare(folder, lock, parcel, scratch)
        dvc = _Commands(stage, folder, processes, logs)
        pull = [] if parcel["shared"] else ["--pull"]
        status = dvc.run(parcel, "--wait-for-lock", "repro", *pull, stage)
        if status == 0 and not parcel["shared"]:
            status = dvc.run(parcel, "--wait-for-lock", "push", "--run-cache", stage)
        return Answer(status=status, log=dvc.end(), notes=notes(folder, stage))


def unseen(node: str, cache: str) -> str:
    return (
        f"node {node} does not see the head's cache {cache}, and there is no DVC remote between "
        "them: add one that all nodes reach (dvc remote add -d NAME URL), or put the cache on a "
        "shared disk (dvc cache dir PATH)"
    )


def scratch_of(parcel: Parcel) -> Path:
    """Return this node's folder for copies of one workspace.

    It lies in CAPTIONLAB_SCRATCH of the head, or of the node, or in the system's folder for
    temporary files.
    """
    named = parcel["environment"].get("CAPTIONLAB_SCRATCH") or os.environ.get("CAPTIONLAB_SCRATCH")
    root = named or os.path.join(tempfile.gettempdir(), f"captionlab-{os.getuid()}")
    return Path(root) / hashlib.sha256(parcel["files"]).hexdigest()[:16]


@contextmanager
def disk_errors(scratch: Path) -> Iterator[None]:
    """Raise a RuntimeError if the node's disk is full or not writable."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise RuntimeError(
            f"node {node()}: {error.strerror} ({error.filename or scratch}): free some space "
            "there, or name another folder with CAPTIONLAB_SCRATCH"
        ) from None


@contextmanager
def slot(scratch: Path) -> Iterator[Path]:
    """Yield a folder that no other task of this node uses meanwhile.

    What earlier tasks left in it is used again.
    """
    from filelock import FileLock, Timeout

    scratch.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        lock = FileLock(scratch / f"slot-{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            number += 1
            continue
        try:
            yield scratch / f"slot-{number}"
        finally:
            lock.release()
        return


def prepare(folder: Path, lock: bytes, parcel: Parcel, scratch: Path) -> None:
    """Make `folder` a copy of the head's workspace.

    Raises:
        RuntimeError: the workspace is a git repository, and git does not work here.
    """
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(parcel["files"])) as tar:
            tar.extractall(folder, **SAFE)
        if (folder / ".git").is_dir():  # so that git compares the files with the commit
            _reset_git(folder)
        (folder / ".ready").touch()
    (folder / "dvc.lock").unlink(missing_ok=True)
    if lock:  # DVC takes an empty file for a damaged one
        (folder / "dvc.lock").write_bytes(lock)
    cache = parcel["cache"] if parcel["shared"] else scratch / "cache"
    links = "hardlink,symlink,copy"
    text = f'[cache]\n    dir = {cache}\n    type = "{links}"\n{parcel["remote"]}'
    (folder / ".dvc/config.local").write_text(text, encoding="utf-8")
    checkpoints, theirs = folder / "checkpoints", Path(parcel["checkpoints"])
    if (theirs / parcel["token"]).is_file() and not checkpoints.exists():
        checkpoints.symlink_to(theirs, target_is_directory=True)


def _reset_git(folder: Path) -> None:
    try:
        subprocess.run(["git", "reset", "-q"], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(
            f"node {node()}: git reset in {folder} failed ({error}): scores name the commit of "
            "their code, so git has to work on every node"
        ) from None


def notes(folder: Path, stage: str) -> dict[str, bytes]:
    """Return path -> content of JSON files beside the checkpoint of a training that just ran."""
    kind, _, variant = stage.partition("@")
    if kind != "train" or (folder / "checkpoints").is_symlink():
        return {}
    found = (folder / "checkpoints" / variant).glob("*.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class _Commands:
    """Run `dvc` commands in a slot. Their output goes to a file, and from there to the head."""

    def __init__(self, stage: str, folder: Path, processes: int, logs: Any):
        self.stage, self.folder, self.logs = stage, folder, logs
        self.processes = {"CAPTIONLAB_PROCESSES": str(processes)} if processes > 1 else {}
        self.file = folder / ".dvc/tmp/stage.log"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(b"")
        self.sent = 0

    def run(self, parcel: Parcel, *command: str) -> int:
        """Run a command, and return its exit status."""
        job = [sys.executable, "-m", "captionlab.running.job", str(os.getpid()), *command]
        with self.file.open("ab") as out:
            process = subprocess.Popen(
                job,
                cwd=self.folder,
                env=self._environment(parcel),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        ended = threading.Event()
        telling = threading.Thread(target=self._tell_until, args=(ended,))
        telling.start()
        status = process.wait()
        ended.set()
        telling.join()
        return status

    def end(self) -> str:
        return self.file.read_bytes()[-16_000:].decode("utf-8", "replace")

    def _environment(self, parcel: Parcel) -> dict[str, str]:
        """Return this node's environment, with the variables that the head decides."""
        # Ray sets OMP_NUM_THREADS.
        own = {key: text for key, text in os.environ.items() if key != "OMP_NUM_THREADS"}
        path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", "")])
        only = {"PYTHONPATH": str(self.folder), "CAPTIONLAB_ONLY": self.stage}
        return {**own, "PATH": path, **parcel["environment"], **self.processes, **only}

    def _tell_until(self, ended: threading.Event) -> None:
        while not ended.wait(TELL):
            self._tell()
        self._tell()

    def _tell(self) -> None:
        with self.file.open("rb") as file:
            file.seek(self.sent)
            new = file.read()
        if new:
            self.sent += len(new)
            self.logs.add.remote(self.stage, new)


class Logs:
    """Actor on the head's node that keeps what stages have printed until the head takes it."""

    def __init__(self) -> None:
        self.new: list[tuple[str, bytes]] = []

    def add(self, stage: str, text: bytes) -> None:
        self.new.append((stage, text))

    def take(self) -> list[tuple[str, bytes]]:
        taken, self.new = self.new, []
        return taken
