"""Access to the MLflow store. It is probed before use, created by one process at a time, and
silent. All its failures become one exception, `StoreDown`."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline.tracking.sqlite import PREFIX, database, fault, make_whole
from pipeline.tracking.store_address import absolute, check_address, probe, tracking_uri
from pipeline.tracking.store_budget import STAGE_SECONDS, TIMEOUT, TRIES, BoundedClient, Budget
from pipeline.tracking.store_faults import StoreBroken, StoreDown, trouble, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT = "captionlab"
# Largest number of metrics, and of runs, in one request.
BATCH = 1000
# Seconds that a command without a budget waits for another program that creates the database.
CREATION = 120.0


@dataclass(frozen=True)
class Store:
    client: "MlflowClient"
    experiment: str
    "Id of the experiment `captionlab`."
    uri: str
    budget: Budget
    "How long publications may wait for one another."

    @property
    def address(self) -> str:
        """The address as files of the workspace may store it: without a password, and still valid
        after the workspace is moved."""
        file = database(self.uri)
        inside = file and file.is_relative_to(Path.cwd())
        return (
            f"{PREFIX}{file.relative_to(Path.cwd())}"
            if file and inside
            else without_password(self.uri)
        )


def open_store(
    uri: str | None = None,
    request_seconds: int = 60,
    create: bool = False,
    budget: Budget | None = None,
) -> Store:
    """Connect to a store, by default to `tracking_uri()`.

    Args:
        request_seconds: seconds that a request may wait for an answer.
        create: create the database of a `sqlite:///` address if it is missing. Only callers that
            write set this: a command that reads would leave an empty database in whatever folder
            it is called from.
        budget: for all calls to a server together, and for all waits for other programs that use
            the same store. Without it, only each call and each wait on its own is limited.

    Raises:
        StoreBroken: the file of a `sqlite:///` address cannot be used. The message says what to do.
        StoreDown: mlflow is not installed, the address is invalid, or nothing answers there. A dead
            address is detected within seconds.
    """
    _configure_mlflow(request_seconds)
    uri = absolute(uri or tracking_uri())
    check_address(uri)
    file = database(uri)
    budget = budget or Budget(float("inf"))
    with budget.counted():
        probe(uri)
    with trouble(uri):
        if file:
            with budget.counted():
                _prepare(file, create, budget)
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        if not file:
            client = cast("MlflowClient", BoundedClient(client, uri, budget))
        return Store(client, _experiment(client, file), uri, budget)


def _prepare(file: Path, create: bool, budget: Budget) -> None:
    """Check that MLflow can open the database. MLflow itself would retry for minutes."""
    if not create and not file.is_file():
        raise StoreDown(
            f"there is no MLflow store {file}: run this in a workspace after dvc "
            "repro, or set MLFLOW_TRACKING_URI"
        )
    begun = time.monotonic()
    if wrong := fault(file, create, min(budget.left, STAGE_SECONDS)):
        raise StoreBroken(f"MLflow's database {file} {wrong}")
    if create:
        make_whole(file, min(budget.left - (time.monotonic() - begun), CREATION))


def _configure_mlflow(request_seconds: int) -> None:
    """Turn off telemetry, progress bars and URLs on stdout, and allow few retries. The default
    client retries for four minutes."""
    defaults = {
        # MLflow reads this when it is imported. The only value of DO_NOT_TRACK that it understands
        # is "true".
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(TRIES - 1),
        TIMEOUT: str(request_seconds),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _experiment(client: "MlflowClient", file: Path | None) -> str:
    """Return the id of the experiment, which is created if it is missing.

    With a SQLite file, the files of its runs are stored beside it, wherever the writing process
    runs.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(EXPERIMENT)
        if not found:
            return str(
                client.create_experiment(
                    EXPERIMENT, str(file.parent / "mlruns" / EXPERIMENT) if file else None
                )
            )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        found = client.get_experiment_by_name(EXPERIMENT)  # another process was faster
        assert found
    if found.lifecycle_stage == "deleted":
        cure = f"mlflow experiments restore -x {found.experiment_id}"
        raise StoreDown(
            f"the experiment '{EXPERIMENT}' is deleted in MLflow ({cure} brings it back)"
        )
    return str(found.experiment_id)


def find_runs(store: Store, condition: str) -> "list[Run]":
    """Return the experiment's runs that meet the condition, newest first. Deleted runs are left
    out."""
    out: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = store.client.search_runs(
            [store.experiment],
            condition,
            max_results=BATCH,
            order_by=["attributes.start_time DESC"],
            page_token=token or None,
        )
        out, token = out + page, page.token or None
    return out


def curves(store: Store, run_id: str) -> dict[str, dict[int, float]]:
    """Return every metric of a run as {step: value}."""
    names = store.client.get_run(run_id).data.metrics
    return {
        name: {m.step: m.value for m in store.client.get_metric_history(run_id, name)}
        for name in names
    }


def send(store: Store, run_id: str, metrics: "Sequence[Metric]") -> None:
    for start in range(0, len(metrics), BATCH):
        store.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
