"""A tiny copy of the project in which the whole graph runs in seconds. It has 36 scenes, random
encoder weights and three variants."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).parent.parent
# Number of stages of the tiny graph: five for the data, four for each variant, and compare and
# publish.
ALL = 5 + 4 * 3 + 2
COPIED = ["captionlab", "pipeline", "stages", "dvc.yaml", ".dvcignore", ".gitignore"]


def tiny_params() -> dict[str, Any]:
    """Return the committed params.yaml with small values."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["datasets"]["scenes"]["args"] = {"images": 36, "size": 64, "seed": 1}
    params["corpora"]["scenes"] |= {"min_images_per_split": 1, "max_shared_captions": 1.0}
    params["features"]["scenes-lite0"]["args"] = {
        "model": "test_efficientnet", "weights": "random", "image_size": 64, "resize": "squash",
    }  # fmt: skip
    params["train"] |= {"epochs": 1, "batch_images": 8, "min_count": 1}
    params["decode"] |= {"beam": 2, "max_tokens": 6, "alternatives": 2}
    params["scoring"]["metrics"] = [
        "bleu",
        "rouge_l",
        "cider",
        "diversity",
        "degeneration",
        "gender",
    ]
    for variant in params["variants"].values():
        variant["args"] = {
            k: 8 if type(v) is int and k != "layers" else v for k, v in variant["args"].items()
        }
    params["variants"]["lstm"]["train"] |= {"seeds": [1, 2]}
    return params


def make_workspace(folder: Path, params: dict[str, Any] | None = None, git: bool = False) -> Path:
    """Make a DVC workspace. Its code is a copy, so a test may edit it. With `git`, everything is
    committed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "reports").mkdir(exist_ok=True)
    shutil.copy(ROOT / "reports/speed.json", folder / "reports")
    write_params(folder, params or tiny_params())
    if git:
        run(folder, "git", "init", "-q")
    run(folder, tool("dvc"), "init", "-q", *([] if git else ["--no-scm"]))
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
    config = (ROOT / ".dvc" / "config").read_text()
    without_git = config.replace("[core]", "[core]\n    no_scm = true")
    (folder / ".dvc" / "config").write_text(config if git else without_git)
    if git:
        commit_all(folder)
    return folder


def computed(factory: pytest.TempPathFactory) -> Path:
    """Return a workspace in which the graph of `tiny_params` has run. It is made once for all
    workers of a test run.

    The folder `cache` beside it is a copy of DVC's cache after that first run.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, cache = root / "computed" / "work space", root / "computed" / "cache"
    with FileLock(root / "computed.lock"):
        if not cache.exists():
            make_workspace(folder)
            ran = repro(folder)
            assert len(ran) == ALL
            shutil.copytree(folder / ".dvc/cache", cache)
    return folder


def remember(folder: Path, factory: pytest.TempPathFactory) -> None:
    """Copy the DVC cache of `computed` into a new workspace, which then restores those outputs."""
    shutil.copytree(computed(factory).parent / "cache", folder / ".dvc/cache")


def commit_all(folder: Path) -> None:
    """Commit everything that git does not ignore."""
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-q", "-m", "all")


def write_params(folder: Path, params: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """Return environment variables for a command in the workspace. Its own code comes first on
    PYTHONPATH, this Python first on PATH, and it uses one thread."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("CAPTIONLAB_", "MLFLOW_", "DVC_"))
    }
    return {**kept, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **extra}


def run(
    folder: Path, *command: str, check: bool = True, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the workspace. With `check`, a failure fails the test and shows the
    output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **extra),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def stage(
    folder: Path, name: str, *args: str, check: bool = True, **extra: str
) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", f"stages.{name}", *args, check=check, **extra)


def repro(folder: Path, *args: str, **extra: str) -> list[str]:
    """Run `dvc repro` and return the names of the stages that it ran, sorted."""
    done = run(folder, tool("dvc"), "repro", *args, check=True, **extra)
    return sorted(
        line.split("'")[1]
        for line in done.stdout.splitlines()
        if line.startswith("Running stage '")
    )
