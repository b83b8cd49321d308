"""Compare `captionlab run` with `dvc repro`.

`python -m benchmarks.running [--kills N]` writes benchmarks/results/running.{json,md}.

1. Six variants of the tests' tiny graph (36 scenes, one epoch) are run in three ways: by `dvc
   repro`, by `captionlab run --jobs 2`, and by `captionlab run --ray`. All use one thread per
   stage. The last uses two nodes of one core each, which are groups of processes on this machine.
   All three must give equal outputs.
2. Kills: while `captionlab run --jobs 2` works, every few seconds one process is ended with
   SIGKILL. It is a stage or the `dvc` above it, drawn from a seed. This goes on for as many runs as
   N kills take. Every run must end with the outputs of an undisturbed one, and leave no process.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import _common as common
from pipeline.data.files import digest
from tests.running.toy import processes_in
from tests.workspace import environment, make_workspace, tiny_params, tool

# Seconds between two kills: minimum and maximum.
PAUSE = 2.0, 8.0
# Maximum number of calls of the command until its run has ended.
CALLS = 10
REPRO = [tool("dvc"), "repro"]
RUN = [sys.executable, "-m", "captionlab", "run"]


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


def kill_some(folder: Path, rng: random.Random, left: int) -> tuple[int, int]:
    """Call the command until its run ends, with at most `left` kills.

    Returns:
        Number of kills, and number of calls of the command.
    """
    kills = 0
    for call in range(1, CALLS + 1):
        process = start(folder, [*RUN, "--jobs", "2"])
        due = time.monotonic() + rng.uniform(*PAUSE)
        while process.poll() is None:
            time.sleep(0.1)
            if kills < left and time.monotonic() >= due:
                kills += _kill_one(folder, process.pid, rng)
                due = time.monotonic() + rng.uniform(*PAUSE)
        out = process.stdout.read() if process.stdout else ""
        assert "Traceback" not in out, out
        if process.returncode == 0:
            return kills, call
    raise AssertionError(out)


def _kill_one(folder: Path, run: int, rng: random.Random) -> bool:
    """Kill one process of a job, and return whether there was one."""
    import psutil

    victims = []
    for pid in processes_in(folder):
        with suppress(psutil.Error):
            line = " ".join(psutil.Process(pid).cmdline())
            shell = psutil.Process(pid).name() in ("sh", "bash", "dash")
            # The `dvc repro` at the end and its stages are not workers. If they are killed, the run
            # says to type the command again.
            last = any(f"stages.{kind}" in line for kind in ("track", "compare", "publish"))
            last = last or (".job " in line and "--single-item" not in line)
            if pid != run and not shell and not last and ("stages." in line or ".job " in line):
                victims.append((pid, line.partition("--single-item")[1]))
    jobs = [pid for pid, is_dvc in victims if is_dvc]
    stages = [pid for pid, is_dvc in victims if not is_dvc]
    chosen = rng.choice([jobs, stages]) or jobs or stages
    if not chosen:
        return False
    with suppress(psutil.Error):
        psutil.Process(rng.choice(sorted(chosen))).kill()
    return True


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        about = measure(Path(place), options.kills, options.seed)
    common.save("running", about, page(about))


def measure(place: Path, kills: int, seed: int) -> dict[str, Any]:
    base = make_workspace(place / "base", six_variants())
    folders = {name: place / name for name in ("plain", "jobs", "ray")}
    for folder in folders.values():
        shutil.copytree(base, folder)
    took = {
        "plain": clock(folders["plain"], REPRO),
        "jobs": clock(folders["jobs"], [*RUN, "--jobs", "2"]),
        "ray": two_nodes(folders["ray"]),
    }
    print({name: round(seconds, 1) for name, seconds in took.items()}, flush=True)
    expected = made(folders["plain"])
    equal = {name: made(folder) == expected for name, folder in folders.items()}
    campaign = kill_campaign(base, place, expected, kills, seed)
    return {**common.environment(), "seconds": took, "equal": equal, **campaign}


def kill_campaign(
    base: Path, place: Path, expected: dict[str, str], kills: int, seed: int
) -> dict[str, Any]:
    rng, done = random.Random(seed), 0
    runs: list[dict[str, Any]] = []
    while done < kills:
        folder = place / f"kill{len(runs)}"
        shutil.copytree(base, folder)
        count, calls = kill_some(folder, rng, kills - done)
        time.sleep(2)
        left = len(processes_in(folder))
        runs.append(
            {"kills": count, "calls": calls, "equal": made(folder) == expected, "left": left}
        )
        done += count
        print(f"kills {done} of {kills}: {runs[-1]}", flush=True)
    return {"seed": seed, "kills": done, "runs": runs}


def page(about: dict[str, Any]) -> str:
    took, runs = about["seconds"], about["runs"]
    names = {
        "plain": "dvc repro",
        "jobs": "captionlab run --jobs 2",
        "ray": "captionlab run --ray, two nodes of one core",
    }
    rows = [
        [
            names[name],
            f"{seconds:.0f} s",
            f"{took['plain'] / seconds:.2f}",
            "yes" if about["equal"][name] else "no",
        ]
        for name, seconds in took.items()
    ]
    equal = sum(run["equal"] for run in runs)
    return (
        f"{common.introduction(about)} One run each.\n\n"
        + common.markdown(["six tiny variants, 31 stages", "time", "times faster", "equal"], rows)
        + f"\n{about['kills']} kills (seed {about['seed']}) in {len(runs)} runs of `captionlab run "
        f"--jobs 2`, each called up to {max(run['calls'] for run in runs)} times: {equal} of "
        f"{len(runs)} runs ended equal to the undisturbed one, and left "
        f"{sum(run['left'] for run in runs)} processes.\n"
    )


if __name__ == "__main__":
    main()
