"""What live curves cost a training: `python -m benchmarks.tracking [variant [epochs [pairs]]]` -> benchmarks/results/tracking.*

A variant of this workspace's params.yaml is really trained (its features must be there), by turns with live curves into a new
SQLite store and without, each time from nothing; the ratio is of the wall times of the two trainings of a pair, from the
start of the receiving process to its end. Other work on the machine moves that ratio by more than it measures. What the
receiver takes is seen without a second training: the time for which threads of the training were ready and had to wait for a
core (Linux counts it, /proc/*/schedstat), and the processor time of the receiver, which may have come from idle cores.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.params import Params, load_params
from pipeline.tracking import Live, delay, start_live
from stages.train import prepare

ROOT = Path(__file__).parent.parent
GOAL = 0.02
"of a training's time"


def training(variant: str, params: Params, tracked: bool, folder: Path) -> dict[str, Any]:
    """Wall time of a training, for how long its threads waited for a core, and its receiver's processor time; all in seconds.

    `curves_after`: seconds to the first curve, None where none arrived before the end.
    """
    trainer, _ = prepare(variant, params, params.training(variant).seeds[0])
    trainer.checkpoint, run_file = folder / "checkpoint.pt", folder / "run.json"
    waited, used, started, now = _waited(), _children(), time.perf_counter(), time.time()
    trainer.live = live = start_live(variant, params, run_file, delay(trainer.device)) if tracked else Live(None)
    trainer.run()
    waited = _waited() - waited
    arrived = round(run_file.stat().st_mtime - now, 1) if run_file.is_file() else None
    live.close("FINISHED")
    wall = time.perf_counter() - started
    return {"wall": wall, "waited": waited, "receiver": _children() - used, "curves_after": arrived}


def _waited() -> float:
    """Of the threads that this process has now; those of a pool live as long as it does."""
    return sum(int(file.read_text().split()[1]) for file in Path("/proc/self/task").glob("*/schedstat")) / 1e9


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given = dict(enumerate(sys.argv[1:]))
    variant, epochs, pairs = given.get(0, "merge"), given.get(1), int(given.get(2, 3))
    params = load_params()
    if epochs:
        params.variants[variant].train["epochs"] = int(epochs)
    rows: list[dict[str, Any]] = []
    for number in range(pairs):
        row: dict[str, Any] = {}
        for tracked in (True, False) if number % 2 else (False, True):
            with tempfile.TemporaryDirectory() as folder:
                os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
                row["live" if tracked else "without"] = training(variant, params, tracked, Path(folder))
        rows.append(row)
        print(row, flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = {
        "command": " ".join(["python -m benchmarks.tracking", *sys.argv[1:]]),
        "commit": commit or "no git",
        "machine": f"{cores} cores {platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "variant": variant,
        "pairs": rows,
        "goal": GOAL,
        **summary(rows),
    }
    results = ROOT / "benchmarks" / "results"
    (results / "tracking.json").write_text(json.dumps(about, indent=2) + "\n")
    (results / "tracking.md").write_text(table(about))
    print(table(about))


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians; what the receiver takes is what the training waited for more than without it, of its wall time."""
    return {
        "ratio": round(statistics.median(r["live"]["wall"] / r["without"]["wall"] for r in rows), 4),
        "taken": round(statistics.median((r["live"]["waited"] - r["without"]["waited"]) / r["live"]["wall"] for r in rows), 4),
    }


def table(about: dict[str, Any]) -> str:
    head = f"`{about['command']}` at {about['commit']}, {about['machine']}: trainings of `{about['variant']}`, seconds.\n\n"
    columns = [
        "| curves | training | waited for a core | receiver's processor time | first curve after |",
        "|---|---:|---:|---:|---:|",
    ]
    rows = [
        f"| {name} | {r['wall']:.1f} | {r['waited']:.2f} | {r['receiver']:.2f} | {r['curves_after'] or '-'} |"
        for pair in about["pairs"]
        for name, r in pair.items()
    ]
    figures = f"Taken from the training: {about['taken']:.1%} (goal: at most {about['goal']:.0%}). Ratio of the wall times: "
    return head + "\n".join([*columns, *rows]) + f"\n\n{figures}{about['ratio']:.3f}.\n"


if __name__ == "__main__":
    main()
