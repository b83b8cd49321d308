"""Kill the workers of `captionlab run` at random, and compare what it makes in the end.

`python -m benchmarks.kills [--kills N] [--seed N]` writes benchmarks/results/kills.{json,md}.

While `captionlab run --jobs 2` works on six variants of the tests' tiny graph, every few seconds
one process is ended with SIGKILL. It is a stage or the `dvc` above it, drawn from a seed. If the
run ends with an error, the same command is given again. This goes on for as many runs as N kills
take. Every run must end with the outputs and the dvc.lock of an undisturbed `dvc repro`, byte for
byte, and leave no process.
"""

import argparse
import random
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import _common as common
from benchmarks.running import REPRO, RUN, clock, made, six_variants, start
from tests.running.toy import processes_in
from tests.workspace import make_workspace

# Seconds between two kills: minimum and maximum.
PAUSE = 2.0, 8.0
# Maximum number of calls of the command until its run has ended.
CALLS = 10


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


def campaign(place: Path, kills: int, seed: int) -> list[dict[str, Any]]:
    """Return a row for each run."""
    base = make_workspace(place / "base", six_variants())
    plain = Path(shutil.copytree(base, place / "plain"))
    clock(plain, REPRO)
    expected, rng, done = made(plain), random.Random(seed), 0
    runs: list[dict[str, Any]] = []
    while done < kills:
        folder = Path(shutil.copytree(base, place / f"kill{len(runs)}"))
        count, calls = kill_some(folder, rng, kills - done)
        time.sleep(2)
        found, left = made(folder), len(processes_in(folder))
        names = sorted(found.keys() | expected.keys())
        differ = [name for name in names if found.get(name) != expected.get(name)]
        runs.append({"kills": count, "calls": calls, "differ": differ, "left": left})
        done += count
        print(f"kills {done} of {kills}: {runs[-1]}", flush=True)
    return runs


def page(about: dict[str, Any]) -> str:
    head = ["run", "kills", "calls of the command", "files that differ", "processes left"]
    rows = [
        [
            str(n),
            *(str(run[key]) for key in ("kills", "calls")),
            ", ".join(run["differ"]) or "none",
            str(run["left"]),
        ]
        for n, run in enumerate(about["runs"], 1)
    ]
    return f"{common.introduction(about)} Seed {about['seed']}.\n\n{common.markdown(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = campaign(Path(place), options.kills, options.seed)
    about = {**common.environment(), "seed": options.seed, "runs": runs}
    common.save("kills", about, page(about))


if __name__ == "__main__":
    main()
