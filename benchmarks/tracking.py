"""What live curves cost a training: `python -m benchmarks.tracking [variant [epochs [pairs]]]` -> benchmarks/results/tracking.*

A variant of this workspace's params.yaml is really trained (its features must be there), by turns with live curves into a new
SQLite store and without, each time from nothing; the ratio is of the wall times of the two trainings of a pair, from the
start of the receiving process to its end. Other work on the machine moves that ratio by more than it measures; the receiver's
share of a core while the training ran does not move so, and is what it can have taken from it at most.
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
from pipeline.tracking import Live, start_live
from stages.train import prepare

ROOT = Path(__file__).parent.parent


def seconds(variant: str, params: Params, tracked: bool, folder: Path) -> tuple[float, float, bool]:
    """Wall time of a training, processor time of its receiver, and whether curves arrived while it ran."""
    trainer, _ = prepare(variant, params, params.training(variant).seeds[0])
    trainer.checkpoint, run_file = folder / "checkpoint.pt", folder / "run.json"
    used, started = _children(), time.perf_counter()
    trainer.live = live = start_live(variant, params, run_file) if tracked else Live(None)
    trainer.run()
    live.close("FINISHED")
    wall = time.perf_counter() - started
    return wall, _children() - used, run_file.is_file()


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
                wall, receiver, arrived = seconds(variant, params, tracked, Path(folder))
            row["live" if tracked else "without"] = round(wall, 2)
            if tracked:
                row |= {"receiver": round(receiver, 2), "share": round(receiver / wall, 4), "arrived": arrived}
        rows.append({**row, "ratio": round(row["live"] / row["without"], 4)})
        print(rows[-1], flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = {
        "command": " ".join(["python -m benchmarks.tracking", *sys.argv[1:]]),
        "commit": commit or "no git",
        "machine": f"{cores} cores {platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "variant": variant,
        "pairs": rows,
        "median_ratio": round(statistics.median(row["ratio"] for row in rows), 4),
        "median_share": round(statistics.median(row["share"] for row in rows), 4),
    }
    results = ROOT / "benchmarks" / "results"
    (results / "tracking.json").write_text(json.dumps(about, indent=2) + "\n")
    (results / "tracking.md").write_text(table(about))
    print(table(about))


def table(about: dict[str, Any]) -> str:
    head = f"`{about['command']}` at {about['commit']}, {about['machine']}: trainings of `{about['variant']}`, seconds.\n\n"
    rows = [
        f"| {row['live']:.2f} | {row['without']:.2f} | {row['ratio']:.3f} | {row['receiver']:.2f} | {row['share']:.3f} | "
        f"{'yes' if row['arrived'] else 'no'} |"
        for row in about["pairs"]
    ]
    columns = [
        "| live curves | without | ratio | receiver's processor time | its share of a core | curves while it ran |",
        "|---:|---:|---:|---:|---:|---|",
    ]
    return (
        head
        + "\n".join([*columns, *rows])
        + f"\n\nMedian ratio {about['median_ratio']:.3f}, share {about['median_share']:.3f}.\n"
    )


if __name__ == "__main__":
    main()
