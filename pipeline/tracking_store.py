"""The MLflow store: probed before use, created by one process at a time, silent, and one exception for all its troubles."""

import http.client
import logging
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import UserError, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT = "captionlab"
DEFAULT_URI = "sqlite:///mlflow.db"
PROBE_SECONDS = 3.0
BATCH = 1000
"metrics that MLflow takes in one request"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class StoreDown(UserError):
    """The store does not answer, or refuses; what was to be kept there is still in the workspace."""


@dataclass(frozen=True)
class Store:
    client: "MlflowClient"
    experiment: str
    "id of the experiment `captionlab`"
    uri: str


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the database of this workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_store(request_seconds: int = 60) -> Store:
    """Connect to `tracking_uri()`; creates the database and the experiment where they are missing.

    Raises:
        StoreDown: mlflow is not installed, or the store does not answer (found out within seconds).
    """
    _configure_mlflow(request_seconds)
    uri = absolute(tracking_uri())
    probe(uri)
    with trouble(uri), _creation_lock(uri):
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        return Store(client, _experiment(client), uri)


def _configure_mlflow(request_seconds: int) -> None:
    """No telemetry, progress bars or addresses on stdout, and few retries: the default client retries for four minutes."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(request_seconds),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def absolute(uri: str) -> str:
    """mlflow keeps one open store per address, so a relative path would go on meaning an earlier working directory."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri or path.startswith("/") else f"sqlite:///{Path(path).absolute()}"


@contextmanager
def trouble(uri: str) -> Iterator[None]:
    """Turn whatever goes wrong between here and the store into StoreDown."""
    try:
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise StoreDown(f"MLflow cannot be imported here ({error})") from None
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # importing mlflow sets its own level
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, http.client.HTTPException, OSError) as error:
        raise _down(uri, error) from error


def _down(uri: str, error: BaseException) -> StoreDown:
    return StoreDown(f"MLflow at {without_password(uri)} is out of reach ({_short(error)})")


def without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def _short(error: BaseException) -> str:
    text = one_line(error) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def probe(uri: str) -> None:
    """Raise StoreDown unless something answers at the address within seconds; files and unknown schemes pass."""
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    try:
        if scheme in ("http", "https"):
            _probe_http(without_password(uri))
        elif scheme in PORTS and parts.hostname:
            socket.create_connection((parts.hostname, parts.port or PORTS[scheme]), PROBE_SECONDS).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _down(uri, error) from None


def _probe_http(uri: str) -> None:
    try:
        urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:  # below, somebody is there: the client will say what is wrong
            raise
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # mlflow has settings of its own for certificates
            raise OSError(str(error.reason)) from None


def _creation_lock(uri: str) -> AbstractContextManager[object]:
    """Two processes that create a sqlite store at the same time corrupt it for good."""
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        return nullcontext()
    from filelock import FileLock

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock", timeout=120)


def _experiment(client: "MlflowClient") -> str:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(EXPERIMENT)
        if not found:
            return str(client.create_experiment(EXPERIMENT))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        found = client.get_experiment_by_name(EXPERIMENT)  # another process was faster
        assert found
    if found.lifecycle_stage == "deleted":
        cure = f"mlflow experiments restore -x {found.experiment_id}"
        raise StoreDown(f"the experiment '{EXPERIMENT}' is deleted in MLflow ({cure} brings it back)")
    return str(found.experiment_id)


def find_runs(store: Store, condition: str) -> "list[Run]":
    """Every run of the experiment that is not deleted and meets the condition, the newest first."""
    out: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = store.client.search_runs(
            [store.experiment], condition, max_results=BATCH, order_by=["attributes.start_time DESC"], page_token=token or None
        )
        out, token = out + page, page.token or None
    return out


def curves(store: Store, run_id: str) -> dict[str, dict[int, float]]:
    """Every metric of a run as {step: value}."""
    names = store.client.get_run(run_id).data.metrics
    return {name: {m.step: m.value for m in store.client.get_metric_history(run_id, name)} for name in names}


def send(store: Store, run_id: str, metrics: "Sequence[Metric]") -> None:
    for start in range(0, len(metrics), BATCH):
        store.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
