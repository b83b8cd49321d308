"""The process that writes a training's live curves to MLflow: JSON lines on standard input become
points of a run.

The first line names the variant, its params and tags, and the file that remembers the run. Input
that ends without a `close` line means that the training was killed; the run is then closed as
KILLED.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import one_line
from pipeline.data.files import fingerprint
from pipeline.tracking.live import curves_of, warn
from pipeline.tracking.run_file import RunFile, read_run_file, write_run_file
from pipeline.tracking.store import Store, curves, open_store, send
from pipeline.tracking.store_faults import trouble

if TYPE_CHECKING:
    from mlflow.entities import Metric

# Seconds between two requests. Messages that arrive in between are sent together.
PAUSE = 0.5
LATER = "training continues; the stage track completes its curves"


def main() -> None:
    training = os.getppid()
    try:
        receive(messages(sys.stdin.fileno()), lambda: os.getppid() == training)
    except Exception as error:
        warn(f"{one_line(error)}: {LATER}")


def messages(descriptor: int) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of the messages that arrived since the previous list, until the input ends. No
    list is empty. A last line that is incomplete is dropped."""
    rest = b""
    while data := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [json.loads(line) for line in lines]
            time.sleep(PAUSE)


def receive(
    batches: Iterator[list[dict[str, Any]]], trains: Callable[[], bool] = lambda: True
) -> None:
    """Write the curves into a run. The run is opened when the first figure arrives, because its
    step tells whether the training was resumed.

    Args:
        trains: returns whether the training is still alive. On a busy machine it may have been
            killed and restarted with another receiver before this one has opened its store.
    """
    first = next(batches, [])
    if not first:
        return
    header, store = first.pop(0), open_store(request_seconds=5, create=True)
    if not trains():
        return
    print("connected", flush=True)
    run_id, done, status = "", set[tuple[str, int]](), ""
    with trouble(store.uri):
        for batch in chain([first], batches):
            reports = [message for message in batch if "step" in message]
            if reports and not run_id:
                run_id, done = open_run(store, header, reports[0]["step"])
            send(store, run_id, _metrics(reports, done))
            status = next((message["close"] for message in batch if "close" in message), "")
            if status:
                break
        if run_id and status != "FINISHED":
            store.client.set_terminated(run_id, status or "KILLED")


def open_run(store: Store, header: dict[str, Any], step: int) -> tuple[str, set[tuple[str, int]]]:
    """Return the id of the run and the (metric, step) pairs that it already has.

    The run is the one that the file names if this training continues it, and a new one otherwise.
    """
    file = Path(header["file"])
    key = fingerprint(header["params"])
    run_id, told = remembered(store, file), read_run_file(file)
    if run_id and told:
        known = curves(store, run_id)
        first = min((s for values in known.values() for s in values), default=step)
        if told.params == key and step > first:
            store.client.update_run(run_id, status="RUNNING")
            return run_id, {(name, s) for name, values in known.items() for s in values}
        store.client.set_terminated(run_id, "KILLED")
    return _new_run(store, header, file, key), set()


def remembered(store: Store, file: Path) -> str | None:
    """Return the id of the unfinished run that the file names, or None if the store has none."""
    from mlflow.exceptions import MlflowException

    told = read_run_file(file)
    if not told or told.tracking_uri != store.address:
        return None
    try:
        run = store.client.get_run(told.run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    open_still = run.info.lifecycle_stage == "active" and run.info.status != "FINISHED"
    return str(run.info.run_id) if open_still else None


def _new_run(store: Store, header: dict[str, Any], file: Path, key: str) -> str:
    from mlflow.entities import Param

    run = store.client.create_run(store.experiment, run_name=header["variant"], tags=header["tags"])
    run_id = str(run.info.run_id)
    write_run_file(file, RunFile(tracking_uri=store.address, run_id=run_id, params=key))
    store.client.log_batch(run_id, params=[Param(k, v) for k, v in header["params"].items()])
    return run_id


def _metrics(reports: list[dict[str, Any]], done: set[tuple[str, int]]) -> "list[Metric]":
    from mlflow.entities import Metric

    rows = [
        (name, value, r["time"], r["step"])
        for r in reports
        for name, value in curves_of(r["values"]).items()
    ]
    return [
        Metric(name, value, when, step)
        for name, value, when, step in rows
        if (name, step) not in done
    ]


if __name__ == "__main__":
    main()
