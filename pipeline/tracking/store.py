"""The MLflow store: probed before use, created by one process at a time, silent, and one exception
for all its troubles."""

import http.client
import logging
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pipeline.core.errors import UserError, one_line
from pipeline.core.paths import home
from pipeline.tracking.sqlite import CURE, PREFIX, database, fault, is_broken, make_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT = "captionlab"
DEFAULT_URI = "sqlite:///mlflow.db"
PROBE_SECONDS = 3.0
STAGE_SECONDS = 10.0
"that a stage waits for a store altogether; CAPTIONLAB_MLFLOW_SECONDS names another number"
ANSWER_SECONDS = 20.0
"that a request may stay without an answer, but for one that moves a file"
FREE = 0.5
"seconds of each call that no budget counts"
TRIES = 2
"of each request: the default client tries for four minutes"
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
MOVING = {"log_artifact", "log_artifacts", "log_model_artifacts", "download_artifacts"}
"""calls that move files, which may take long for good reasons; each waits for `request_seconds`
without a byte"""
BATCH = 1000
"metrics that MLflow takes in one request"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KNOWN = (
    "http://HOST:PORT, https://HOST, sqlite:///FILE, or postgresql, mysql or "
    "mssql://USER:PASSWORD@HOST/NAME"
)


class StoreDown(UserError):
    """The store does not answer, or refuses, or is none; what was to be kept there is still in the
    workspace."""

    later = "captionlab sync publishes it later"
    "what becomes of what could not be published"


class StoreBroken(StoreDown):
    """The database of a workspace cannot be used until somebody does what the message says."""

    later = "no run of it is lost"


class Budget:
    """How long a stage waits for a store altogether.

    Args:
        seconds: that calls may take together, the first `FREE` of each not counted: a busy server
            is not a dead one. Moving files is not counted either.
    """

    def __init__(self, seconds: float):
        self.seconds, self.spent = seconds, 0.0

    @classmethod
    def of_stage(cls) -> "Budget":
        """Raises a UserError for a `CAPTIONLAB_MLFLOW_SECONDS` that is no number above 0."""
        text = os.environ.get("CAPTIONLAB_MLFLOW_SECONDS") or str(STAGE_SECONDS)
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            message = f"CAPTIONLAB_MLFLOW_SECONDS={text}: expected a number of seconds above 0"
            raise UserError(message)
        return cls(seconds)

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    @contextmanager
    def counted(self, free: float = 0.0) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.spent += max(0.0, time.monotonic() - started - free)


class BoundedClient:
    """An MlflowClient none of whose calls waits for longer than its budget has left."""

    def __init__(self, client: "MlflowClient", uri: str, budget: Budget):
        self._client, self._uri, self._budget = client, uri, budget

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return found if name in MOVING or not callable(found) else partial(self._call, found)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._budget.left <= 0:
            raise StoreDown(
                f"MLflow at {without_password(self._uri)} is too slow: it has taken the "
                f"{self._budget.seconds:g} s that a stage waits for it (CAPTIONLAB_MLFLOW_SECONDS)"
            )
        with self._budget.counted(FREE), _timeout(self._budget.left / TRIES):
            return method(*args, **kwargs)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Of MLflow's requests, which read it from the environment, in whole seconds."""
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(max(1, int(min(float(before), ANSWER_SECONDS, seconds))))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


@dataclass(frozen=True)
class Store:
    client: "MlflowClient"
    experiment: str
    "id of the experiment `captionlab`"
    uri: str

    @property
    def address(self) -> str:
        """As a file of the workspace may name it: without password, and the same after the
        workspace was moved."""
        file = database(self.uri)
        inside = file and file.is_relative_to(Path.cwd())
        return (
            f"{PREFIX}{file.relative_to(Path.cwd())}"
            if file and inside
            else without_password(self.uri)
        )


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the database of this workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_store(
    uri: str | None = None,
    request_seconds: int = 60,
    create: bool = False,
    budget: Budget | None = None,
) -> Store:
    """Connect to a store, by default to `tracking_uri()`.

    Args:
        request_seconds: that a request may stay without an answer.
        create: make the database of a `sqlite:///` address where it is missing. Only who writes
            asks for it: a command that reads would leave an empty database in whatever folder it is
            called from.
        budget: of all calls together, for a server over the network; without it each call waits
            for its own time alone.

    Raises:
        StoreBroken: the file of a `sqlite:///` address cannot be used; says what to do.
        StoreDown: mlflow is not installed, or the address is none, or nothing answers there (found
            out within seconds).
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
            _prepare(file, create, min(budget.left, STAGE_SECONDS))
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        if not file:
            client = cast("MlflowClient", BoundedClient(client, uri, budget))
        return Store(client, _experiment(client, file), uri)


def _prepare(file: Path, create: bool, seconds: float) -> None:
    """Make sure that MLflow can open a database, which would else try for minutes."""
    if not create and not file.is_file():
        raise StoreDown(
            f"there is no MLflow store {file}: run this in a workspace after dvc "
            "repro, or set MLFLOW_TRACKING_URI"
        )
    if wrong := fault(file, create, seconds):
        raise StoreBroken(f"MLflow's database {file} {wrong}")
    if create:
        make_whole(file)


def _configure_mlflow(request_seconds: int) -> None:
    """No telemetry, progress bars or addresses on stdout, and few retries: the default client
    retries for four minutes."""
    defaults = {
        # read when mlflow is imported; of DO_NOT_TRACK it only understands "true"
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(TRIES - 1),
        TIMEOUT: str(request_seconds),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def absolute(uri: str) -> str:
    """A relative path of a database is one of the workspace, also in a temporary copy of it. mlflow
    keeps one open store per address: a relative path would go on meaning an earlier working
    directory."""
    file = database(uri)
    return f"{PREFIX}{home() / file}" if file and file.name else uri


def check_address(uri: str) -> None:
    """Raise StoreDown for what MLflow would take for a folder, or fail at with a traceback."""
    if not _is_address(uri):
        raise StoreDown(
            f"'{without_password(uri)}' is no address of an MLflow store: write {KNOWN}"
        )


def _is_address(uri: str) -> bool:
    file = database(uri)
    if file:
        return bool(file.name) and not file.is_dir()
    try:
        parts = urlsplit(uri)
        has_host = bool(parts.hostname) and parts.port != 0  # a port that is no number raises
    except ValueError:
        return False
    scheme = parts.scheme.split("+")[0]
    return uri.split(":")[0] == "databricks" or (has_host and scheme in ("http", "https", *PORTS))


@contextmanager
def address_of_process(uri: str) -> Iterator[None]:
    """MLflow looks `models:/` and `runs:/` up at the address of the process, whatever it is given:
    set while that is done."""
    import mlflow

    own, environment = _own_address(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(absolute(uri))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(own)  # type: ignore[arg-type]
        os.environ.pop(
            "MLFLOW_TRACKING_URI", None
        )  # where set_tracking_uri keeps its address as well
        if environment is not None:
            os.environ["MLFLOW_TRACKING_URI"] = environment


def _own_address() -> str | None:
    """What somebody has given mlflow.set_tracking_uri in this process; None: the environment
    decides, also when it changes."""
    import mlflow

    environment = os.environ.pop("MLFLOW_TRACKING_URI", None)  # both answer to is_tracking_uri_set
    try:
        return mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    finally:
        if environment is not None:
            os.environ["MLFLOW_TRACKING_URI"] = environment


@contextmanager
def trouble(uri: str) -> Iterator[None]:
    """Turn whatever goes wrong between here and the store into StoreDown."""
    try:
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        todo = 'pip install "captionlab[pipeline]"'
        raise StoreDown(f"MLflow cannot be imported here ({error}): {todo}") from None
    for name in (
        "mlflow",
        "alembic",
        "urllib3.connectionpool",
    ):  # importing mlflow sets its own level
        logging.getLogger(name).setLevel(logging.ERROR)
    # it logs each error of a database with its traceback, and raises it: we say it in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        yield
    except (
        MlflowException,
        RequestException,
        SQLAlchemyError,
        http.client.HTTPException,
        OSError,
    ) as error:
        if wrong := _fault_of_file(database(uri), str(error)):
            raise StoreBroken(wrong) from None
        raise _down(uri, error) from error


def _fault_of_file(file: Path | None, said: str) -> str:
    """Why a database could not be used in a way that no waiting cures, and the cure; ''
    otherwise."""
    if not file or not file.is_file():
        return ""
    if is_broken(file):
        return f"MLflow's database {file} is broken: {CURE}"
    with suppress(OSError):
        wrong = fault(file, "readonly" in said, PROBE_SECONDS)
        return f"MLflow's database {file} {wrong}" if wrong else ""
    return ""


def _down(uri: str, error: BaseException) -> StoreDown:
    return StoreDown(f"MLflow at {without_password(uri)} is out of reach ({_short(error)})")


def without_password(text: str) -> str:
    """An address, or a message that holds some, as it may be shown."""
    hidden = re.sub(r"(?<=://)\S*@", "", text)
    return re.sub(r"(?i)\b(password|passwd|pwd|token)=[^&\s]+", r"\1=***", hidden)


def _short(error: BaseException) -> str:
    if "database or disk is full" in str(error):
        return "the disk of its database is full: free some space"
    text = without_password(one_line(error)) or type(error).__name__
    return (
        text if len(text) <= 170 else f"{text[:70]} ... {text[-95:]}"
    )  # the cause stands at the end


def probe(uri: str) -> None:
    """Raise StoreDown unless something answers at the address within seconds; files and unknown
    schemes pass."""
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    try:
        if scheme in ("http", "https"):
            _probe_http(without_password(uri))
        elif scheme in PORTS and parts.hostname:
            socket.create_connection(
                (parts.hostname, parts.port or PORTS[scheme]), PROBE_SECONDS
            ).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _down(uri, error) from None


def _probe_http(uri: str) -> None:
    try:
        urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:  # below, somebody is there: the client will say what is wrong
            raise
    except urllib.error.URLError as error:
        if not isinstance(
            error.reason, ssl.SSLError
        ):  # mlflow has settings of its own for certificates
            raise OSError(str(error.reason)) from None


def _experiment(client: "MlflowClient", file: Path | None) -> str:
    """Its id. Beside a SQLite file stand the files of its runs, wherever the process that writes
    them is."""
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
    """Every run of the experiment that is not deleted and meets the condition, the newest first."""
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
    """Every metric of a run as {step: value}."""
    names = store.client.get_run(run_id).data.metrics
    return {
        name: {m.step: m.value for m in store.client.get_metric_history(run_id, name)}
        for name in names
    }


def send(store: Store, run_id: str, metrics: "Sequence[Metric]") -> None:
    for start in range(0, len(metrics), BATCH):
        store.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
