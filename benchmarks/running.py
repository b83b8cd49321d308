"""Compare `captionlab run` with `dvc repro`.

`python -m benchmarks.running` writes benchmarks/results/running.{json,md}.

Six variants of the tests' tiny graph (36 scenes, one epoch) are run in three ways: by `dvc repro`,
by `captionlab run --jobs 2`, and by `captionlab run --ray`. All use one thread per stage. The last
uses two nodes of one core each, which are groups of processes on this machine. All three must give
equal outputs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _common as common
from pipeline.data.files import digest
from tests.workspace import environment, make_workspace, tiny_params, tool

REPRO = [tool("dvc"), "repro"]
RUN = [sys.executable, "-m", "captionlab", "run"]
NAMES = {
    "plain": "dvc repro",
    "jobs": "captionlab run --jobs 2",
    "ray": "captionlab run --ray, two nodes of one core",
}


def six_variants() -> dict[str, Any]:
    """Return parameters with the tests' three variants at two learning rates, one seed each."""
    params = tiny_params()
    kinds = params["variants"]
    params["variants"] = {}
    for number, lr in enumerate((0.001, 0.002)):
        for name, kind in kinds.items():
            training = {key: value for key, value in kind["train"].items() if key != "seeds"}
            own = {key: value for key, value in kind.items() if key != "paper"}
            params["variants"][f"{name}-{number}"] = {**own, "train": {**training, "lr": lr}}
    return params


def made(folder: Path) -> dict[str, str]:
    """Return the digest of every output and of dvc.lock."""
    roots = [folder / name for name in ("data", "models", "reports")]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    kept = [path for path in files if path.suffix not in (".lock", ".gitignore")]
    return {str(path.relative_to(folder)): digest(path) for path in [*kept, folder / "dvc.lock"]}


def start(folder: Path, command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def clock(folder: Path, command: list[str]) -> float:
    """Return the seconds that a command takes; it has to succeed."""
    begun = time.perf_counter()
    process = start(folder, command)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return time.perf_counter() - begun


def two_nodes(folder: Path) -> float:
    """Return the seconds of a run on a Ray cluster that has already started."""
    from ray.cluster_utils import Cluster

    os.environ["CAPTIONLAB_SCRATCH"] = str(folder.parent / "scratch")
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    try:
        return clock(folder, [*RUN, "--ray", cluster.address])
    finally:
        cluster.shutdown()


def measure(place: Path) -> dict[str, Any]:
    base = make_workspace(place / "base", six_variants())
    folders = {name: place / name for name in NAMES}
    for folder in folders.values():
        shutil.copytree(base, folder)
    took = {
        "plain": clock(folders["plain"], REPRO),
        "jobs": clock(folders["jobs"], [*RUN, "--jobs", "2"]),
        "ray": two_nodes(folders["ray"]),
    }
    expected = made(folders["plain"])
    equal = {name: made(folder) == expected for name, folder in folders.items()}
    return {**common.environment(), "seconds": took, "equal": equal}


def page(about: dict[str, Any]) -> str:
    took = about["seconds"]
    rows = [
        [
            NAMES[name],
            f"{seconds:.0f} s",
            f"{took['plain'] / seconds:.2f}",
            "yes" if about["equal"][name] else "no",
        ]
        for name, seconds in took.items()
    ]
    table = common.markdown(["six tiny variants, 31 stages", "time", "times faster", "equal"], rows)
    return f"{common.introduction(about)} One run each.\n\n{table}"


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        about = measure(Path(place))
    common.save("running", about, page(about))


if __name__ == "__main__":
    main()
