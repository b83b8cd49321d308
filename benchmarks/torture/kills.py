"""Kill number N of a seed: a stage is ended at a random moment and run again."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.torture.isolation import Outcome, start
from benchmarks.torture.workspace import copy, stage_call
from pipeline.data.files import digest

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Exit statuses allowed after each signal. Status 0 is allowed too: the stage may have been faster.
ENDED = {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 130}, signal.SIGINT: {-2, 130}}
NOT_COMPARED = ("mlflow.db", "mlruns/", ".dvc/", "checkpoints/")


def outputs(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a workspace, except for MLflow's and DVC's own files."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: digest(file) for name, file in files.items() if not name.startswith(NOT_COMPARED)}


def run(
    seed: int, number: int, base: Path, place: Path, took: dict[str, float]
) -> tuple[str, list[str]]:
    """Kill a stage once or twice, then run it to its end. Return what was done, and what is wrong.

    Args:
        base: The workspace in which every stage has run.
        took: Seconds that each stage takes.
    """
    rng = random.Random(f"{seed} kill {number}")
    name = rng.choice(list(took))
    folder = copy(base, place / "w")
    wrong, told = [], []
    for turn in range(rng.choice([1, 1, 2])):
        how, after = rng.choice(SIGNALS), rng.uniform(0, 1.05 * took[name])
        told.append(f"{how.name} after {after:.2f} s")
        found = _killed(name, place / f"kill{turn}", folder, how, after)
        if found.status not in ENDED[how] | {0}:
            wrong.append(f"status {found.status} of {how.name}: {found.err[-300:]}")
        if "Traceback" in found.err:
            wrong.append("a traceback")
        wrong += [f"{how.name} left {left}" for left in found.left]
    again = start(stage_call(name), place / "again", folder).wait(60)
    if again.status:
        wrong.append(f"the second run: status {again.status}: {again.err[-300:]}")
    wrong += [f"the second run left {left}" for left in again.left]
    return f"{name}: {', '.join(told)}", wrong + _differences(base, folder)


def _killed(name: str, place: Path, folder: Path, how: signal.Signals, after: float) -> Outcome:
    os.environ["CAPTIONLAB_CHECKPOINT_MINUTES"] = "0"  # Write a checkpoint after every step.
    running = start(stage_call(name), place, folder)
    del os.environ["CAPTIONLAB_CHECKPOINT_MINUTES"]
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.kill(running.pid, how)
    return running.wait(60)


def _differences(base: Path, folder: Path) -> list[str]:
    expected, found = outputs(base), outputs(folder)
    out = [
        f"{name} differs" for name in expected if name in found and found[name] != expected[name]
    ]
    out += [f"{name} is gone" for name in expected.keys() - found.keys()]
    out += [f"{name} is left" for name in found.keys() - expected.keys()]
    out += [f"{path.relative_to(folder)} is left" for path in folder.rglob(".*.part")]
    undisturbed = {path.relative_to(base) for path in (base / "checkpoints").rglob("*")}
    kept = (path.relative_to(folder) for path in (folder / "checkpoints").rglob("*"))
    return out + [
        f"{path} is left"
        for path in kept
        if path not in undisturbed and path.name != "mlflow.json"  # It belongs to a later live run.
    ]
