"""What live curves cost: `python -m benchmarks.tracking [variant [epochs]]` ->
benchmarks/results/tracking.{json,md}.

Trains a variant of this workspace's params.yaml, with its curves going into a new SQLite store. The
variant's features must exist.

The cost is the time for which threads of the training were ready but had to wait for a core. Linux
counts it in /proc/*/schedstat. The waiting per second before the receiver of the curves started is
the baseline, and the excess after the start is the cost. The training must therefore last longer
than CAPTIONLAB_LIVE_SECONDS.

Comparing with the wall time of a training without curves was tried. That time varies by more than
the cost to be measured.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _common as common
from pipeline.core.machine import pick_device
from pipeline.experiment.params import Params, load_params
from pipeline.tracking.live import delay, start_live
from stages.train import seeds_of

# Largest cost of live curves, as a share of a training's time.
GOAL = 0.02


def training(variant: str, params: Params, folder: Path) -> dict[str, Any]:
    """Train, and return times in seconds, and the share of time taken by the curves.

    `until_receiver` is the time until the receiver was started. `until_curve` is the time until the
    first curve was in the store, or None. `receiver` is the receiver's processor time.
    """
    trainer, _ = seeds_of(variant, params, pick_device()).trainer(params.training(variant).seeds[0])
    trainer.checkpoint, run_file = folder / "checkpoint.pt", folder / "run.json"
    waited, used, started = _waited(), _children(), time.time()
    trainer.live = live = start_live(variant, params, run_file, delay(trainer.device))
    begun: list[tuple[float, float]] = []
    begin = live._begin
    assert begin, (
        "CAPTIONLAB_LIVE_SECONDS must leave some training before the receiver, to compare with"
    )

    def timed() -> Any:
        begun.append((time.time(), _waited()))
        return begin()

    live._begin = timed
    trainer.run()
    now, in_all = time.time(), _waited()
    first = run_file.stat().st_mtime - started if run_file.is_file() else None
    live.close("FINISHED")
    assert begun, f"the training lasted {now - started:.0f} s: no receiver was started"
    before, then = begun[0][0] - started, begun[0][1] - waited
    return {
        "seconds": now - started,
        "until_receiver": before,
        "until_curve": first,
        "waited_before": then,
        "waited_after": in_all - begun[0][1],
        "receiver": _children() - used,
        "taken": (in_all - begun[0][1] - then / before * (now - begun[0][0])) / (now - started),
    }


def _waited() -> float:
    """Return the seconds for which the current threads of this process have waited for a core. The
    threads of torch's pool live as long as the process."""
    return (
        sum(
            int(file.read_text().split()[1]) for file in Path("/proc/self/task").glob("*/schedstat")
        )
        / 1e9
    )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given = dict(enumerate(sys.argv[1:]))
    variant, epochs = given.get(0, "merge"), given.get(1)
    params = load_params()
    if epochs:
        params.variants[variant].train["epochs"] = int(epochs)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        found = training(variant, params, Path(folder))
    corpus = params.corpora[params.variants[variant].corpus].dataset
    rounded = {k: None if v is None else round(v, 4) for k, v in found.items()}
    about = {**common.environment(), "variant": variant, "dataset": corpus, "goal": GOAL, **rounded}
    common.save("tracking", about, table(about))


def table(about: dict[str, Any]) -> str:
    curve = "never" if about["until_curve"] is None else f"{about['until_curve']:.0f}"
    rows = [
        [f"training of `{about['variant']}` on {about['dataset']}", f"{about['seconds']:.0f}"],
        ["until the receiver of its curves was started", f"{about['until_receiver']:.0f}"],
        ["until the first curve was in MLflow", curve],
        ["waited for a core, all threads, before the receiver", f"{about['waited_before']:.2f}"],
        ["waited for a core, all threads, since", f"{about['waited_after']:.2f}"],
        ["the receiver's processor time", f"{about['receiver']:.2f}"],
    ]
    text = f"Taken from the training: {about['taken']:.1%} of its time (goal: at most {GOAL:.0%})."
    return f"{common.introduction(about)} {text}\n\n{common.markdown(['what', 'seconds'], rows)}"


if __name__ == "__main__":
    main()
