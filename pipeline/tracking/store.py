"""Access to the MLflow store. It is probed before use, created by one process at a time, and
silent. All its failures become one exception, `StoreDown`."""

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
# Seconds that a stage waits for a store in total. CAPTIONLAB_MLFLOW_SECONDS overrides it.
STAGE_SECONDS = 10.0
# Seconds that a request may wait for an answer, except one that transfers a file.
ANSWER_SECONDS = 20.0
# Seconds at the start of each call that the budget does not count.
FREE = 0.5
# Attempts per request. The default client retries for four minutes.
TRIES = 2
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
# Calls that transfer files, which may legitimately take long. Each one fails only after
# `request_seconds` without a byte.
MOVING = {"log_artifact", "log_artifacts", "log_model_artifacts", "download_artifacts"}
# Largest number of metrics, and of runs, in one request.
BATCH = 1000
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KNOWN = (
    "http://HOST:PORT, https://HOST, sqlite:///FILE, or postgresql, mysql or "
    "mssql://USER:PASSWORD@HOST/NAME"
)


class StoreDown(UserError):
    """The store does not answer, refuses, or is not a store. Whatever could not be stored is still
    in the workspace."""

    later = "captionlab sync publishes it later"
    "What happens to results that could not be published."


class StoreBroken(StoreDown):
    """The database of a workspace cannot be used until someone does what the message says."""

    later = "no run of it is lost"


class Budget:
    """The total time that a stage waits for a store.

    Args:
        seconds: how long all calls may take together. The first `FREE` seconds of each call are not
            counted, because a busy server is not a dead one. File transfers are not counted either.
    """

    def __init__(self, seconds: float):
        self.seconds, self.spent = seconds, 0.0

    @classmethod
    def of_stage(cls) -> "Budget":
        """Return the budget of a stage.

        Raises:
            UserError: `CAPTIONLAB_MLFLOW_SECONDS` is not a finite number above 0.
        """
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
    """An MlflowClient whose calls wait no longer than what is left of the budget. Calls in `MOVING`
    are not limited."""

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
    """Limit the timeout of MLflow's requests. They read it from the environment, in whole
    seconds."""
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
    "Id of the experiment `captionlab`."
    uri: str

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


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the address of this workspace's database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


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
        budget: for all calls to a server together. Without it, only each call on its own is
            limited.

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
            _prepare(file, create, min(budget.left, STAGE_SECONDS))
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        if not file:
            client = cast("MlflowClient", BoundedClient(client, uri, budget))
        return Store(client, _experiment(client, file), uri)


def _prepare(file: Path, create: bool, seconds: float) -> None:
    """Check that MLflow can open the database. MLflow itself would retry for minutes."""
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


def absolute(uri: str) -> str:
    """Make the path of a database absolute. It is relative to the workspace, even in a temporary
    copy of the workspace.

    mlflow keeps one open store per address, so a relative path would keep pointing into an earlier
    working directory.
    """
    file = database(uri)
    return f"{PREFIX}{home() / file}" if file and file.name else uri


def check_address(uri: str) -> None:
    """Raise StoreDown for an address that MLflow would treat as a folder, or that would make it
    fail with a traceback."""
    if not _is_address(uri):
        raise StoreDown(
            f"'{without_password(uri)}' is not the address of an MLflow store: use {KNOWN}"
        )


def _is_address(uri: str) -> bool:
    file = database(uri)
    if file:
        return bool(file.name) and not file.is_dir()
    try:
        parts = urlsplit(uri)
        has_host = bool(parts.hostname) and parts.port != 0  # raises if the port is not a number
    except ValueError:
        return False
    scheme = parts.scheme.split("+")[0]
    return uri.split(":")[0] == "databricks" or (has_host and scheme in ("http", "https", *PORTS))


@contextmanager
def address_of_process(uri: str) -> Iterator[None]:
    """Set the address of the process for the duration of the block. MLflow resolves `models:/` and
    `runs:/` there, whatever address it is given."""
    import mlflow

    own, environment = _own_address(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(absolute(uri))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(own)  # type: ignore[arg-type]
        os.environ.pop(
            "MLFLOW_TRACKING_URI", None
        )  # set_tracking_uri stores its address there as well
        if environment is not None:
            os.environ["MLFLOW_TRACKING_URI"] = environment


def _own_address() -> str | None:
    """Return the address that mlflow.set_tracking_uri was given in this process.

    None means that the environment decides, even if it changes later.
    """
    import mlflow

    environment = os.environ.pop("MLFLOW_TRACKING_URI", None)  # is_tracking_uri_set counts it, too
    try:
        return mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    finally:
        if environment is not None:
            os.environ["MLFLOW_TRACKING_URI"] = environment


@contextmanager
def trouble(uri: str) -> Iterator[None]:
    """Turn every failure between this process and the store into StoreDown."""
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
    ):  # importing mlflow sets other levels
        logging.getLogger(name).setLevel(logging.ERROR)
    # This logger writes a traceback for each database error, which is also raised. One line is
    # enough.
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
    """Return a fault of the database that waiting does not cure, and its cure; '' if there is
    none."""
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
    """Return an address, or a message with addresses, without passwords and tokens."""
    hidden = re.sub(r"(?<=://)\S*@", "", text)
    return re.sub(r"(?i)\b(password|passwd|pwd|token)=[^&\s]+", r"\1=***", hidden)


def _short(error: BaseException) -> str:
    if "database or disk is full" in str(error):
        return "the disk of its database is full: free some space"
    text = without_password(one_line(error)) or type(error).__name__
    return text if len(text) <= 170 else f"{text[:70]} ... {text[-95:]}"  # the cause is at the end


def probe(uri: str) -> None:
    """Raise StoreDown unless something answers at the address within seconds. Files and unknown
    schemes are not checked."""
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
        if error.code >= 500:  # below 500 a server answers, and the client will report the problem
            raise
    except urllib.error.URLError as error:
        if not isinstance(
            error.reason, ssl.SSLError
        ):  # mlflow has its own settings for certificates
            raise OSError(str(error.reason)) from None


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
