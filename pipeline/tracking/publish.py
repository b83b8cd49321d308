"""Publish a result: afterwards the store holds exactly one finished run of its fingerprint.

A run is FINISHED only when it is complete. Any other run with the fingerprint is completed or
removed, never duplicated. `decide` chooses each step; this module gathers the facts and acts.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.core.paths import is_copy
from pipeline.data.files import fingerprint
from pipeline.experiment.params import Params
from pipeline.tracking.current import confirm, inherit, withdraw
from pipeline.tracking.decide import Fate, Found, Step, decide
from pipeline.tracking.fill import fill, layout, models
from pipeline.tracking.live import curves_of
from pipeline.tracking.payload import Payload, Places, gather
from pipeline.tracking.receiver import remembered
from pipeline.tracking.run_file import read_run_file
from pipeline.tracking.store import Store, curves, find_runs
from pipeline.tracking.store_faults import StoreDown, trouble
from pipeline.tracking.view import write_view

if TYPE_CHECKING:
    from mlflow.entities import Run

# Largest number of steps of one publication. Three are usual. If this many are needed, another
# process keeps deleting the runs.
ROUNDS = 12
# Seconds that a command without a budget waits for another publication of this workspace.
PATIENCE = 600.0


def publish(store: Store, payload: Payload) -> bool:
    """Make the store hold the payload, and tag its run as what this workspace holds now.

    A temporary copy of an experiment does not count as a workspace. Its runs appear in no table
    until the experiment is applied.

    Other machines may publish the same result at the same time. The second to finish deletes its
    copy.

    Returns:
        Whether this call filled a run. False if the store already held the payload.

    Raises:
        StoreDown: the store became unreachable. The next call completes what was stored by then.
    """
    with trouble(store.uri), _alone(store, payload):
        filled = None
        for _ in range(ROUNDS):
            runs = _look(store, payload, filled)
            step = decide([found for found, _ in runs], filled)
            if step.do == "settle":
                _settle(store, payload, step, {found.run_id: run for found, run in runs})
                return filled is not None
            filled = _take(store, payload, step)
        raise StoreDown(f"the runs of {payload.variant} are deleted while they are published")


@contextmanager
def _alone(store: Store, payload: Payload) -> "Iterator[None]":
    """Keep other processes of this workspace from publishing during the block.

    Raises:
        StoreDown: another one publishes for longer than the budget allows. If that is a stage, it
            publishes what is pending when it ends.
    """
    from filelock import FileLock, Timeout

    payload.lock.parent.mkdir(parents=True, exist_ok=True)
    lock, seconds = FileLock(payload.lock), max(0.0, min(store.budget.left, PATIENCE))
    try:
        with store.budget.counted():
            lock.acquire(timeout=seconds)
    except Timeout:
        raise StoreDown("another process is still publishing from this workspace") from None
    try:
        yield
    finally:
        lock.release()


def publish_pending(store: Store, params: Params, places: Places) -> None:
    """Publish the variants that earlier calls could not publish because no server answered.

    A variant that fails again stays pending, such as one that is just being made again.
    """
    for marker in sorted(places.RUNS.glob("*.pending")):
        with suppress(UserError):
            publish(store, gather(marker.stem, params, places))
            marker.unlink()


def _look(store: Store, payload: Payload, filled: str | None) -> "list[tuple[Found, Run]]":
    """Gather the facts for `decide`: all runs of the fingerprint, the runs of the variant that this
    workspace left open, and the run that its training filled."""
    ours = f"tags.workspace = '{payload.tags['workspace']}'"
    variant = f"tags.variant = '{payload.variant}'"
    runs = [
        *find_runs(store, f"tags.fingerprint = '{payload.fingerprint}'"),
        *find_runs(store, f"{ours} and {variant} and attributes.status = 'RUNNING'"),
    ]
    live = remembered(store, payload.run_file)
    if live:
        runs.append(store.client.get_run(live))
    repeats = live if live and live != filled and _is_of(store, live, payload) else None
    return [
        (_found(run, payload, repeats), run) for run in {r.info.run_id: r for r in runs}.values()
    ]


def _found(run: "Run", payload: Payload, repeats: str | None) -> Found:
    tags, status = run.data.tags, run.info.status
    return Found(
        run_id=run.info.run_id,
        status=status if status in ("RUNNING", "FINISHED") else "STOPPED",
        result=tags.get("fingerprint") == payload.fingerprint,
        ours=tags.get("workspace") == payload.tags["workspace"],
        whole=tags.get("layout") == layout(payload),
        repeats=run.info.run_id == repeats,
        started=run.info.start_time or 0,
        ended=run.info.end_time or 0,
    )


def _is_of(store: Store, run_id: str, payload: Payload) -> bool:
    """Return whether the run's live curves match the payload's history. They differ if the training
    had other params or other code."""
    told = read_run_file(payload.run_file)
    if not told or told.params != fingerprint(payload.params):
        return False
    expected = {
        (name, int(row["step"])): value
        for row in payload.history
        for name, value in curves_of(row).items()
    }
    columns = {name for name, _ in expected}
    logged = {
        (n, s): v
        for n, values in curves(store, run_id).items()
        if n in columns
        for s, v in values.items()
    }
    return all(key in expected and _close(value, expected[key]) for key, value in logged.items())


def _close(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= 1e-6 * max(abs(a), abs(b)) or (a != a and b != b)


def _take(store: Store, payload: Payload, step: Step) -> str:
    """Do a step before `settle`. Return the id of the run that is now filled."""
    if step.do == "finish":
        store.client.set_terminated(step.run_id, "FINISHED")
        return step.run_id
    run_id = step.run_id
    if step.do == "create":
        new = store.client.create_run(store.experiment, run_name=payload.variant, tags=payload.tags)
        run_id = str(new.info.run_id)
    fill(store, run_id, payload)
    write_view(store)
    return run_id


def _settle(store: Store, payload: Payload, step: Step, runs: "dict[str, Run]") -> None:
    for fate in step.others:
        _end(store, fate, runs[fate.run_id], runs[step.run_id])
    workspace = payload.tags["workspace"]
    if not is_copy():
        confirm(store, step.run_id, workspace)
    elif runs[step.run_id].data.tags.get("workspace") == workspace:
        # Without any tag, a run would count for the workspace that made it.
        withdraw(store, step.run_id, workspace)


def _end(store: Store, fate: Fate, run: "Run", kept: "Run") -> None:
    """Delete or close a run. Another machine may have just deleted it."""
    if fate.do == "delete":
        inherit(store, kept, run)
        for model in models(store, fate.run_id):
            store.client.delete_logged_model(model.model_id)
    with _unless_deleted(store, fate.run_id):
        if fate.do == "delete":
            store.client.delete_run(fate.run_id)
        elif fate.do == "close":
            store.client.set_terminated(fate.run_id, "KILLED")


@contextmanager
def _unless_deleted(store: Store, run_id: str) -> "Iterator[None]":
    """Ignore the store's refusal to change a run that another machine has just deleted."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException:
        if store.client.get_run(run_id).info.lifecycle_stage != "deleted":
            raise
