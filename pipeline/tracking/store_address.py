"""The address of the MLflow store: which one counts, whether it is one, and whether it answers."""

import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pipeline.core.paths import home
from pipeline.tracking.sqlite import PREFIX, database
from pipeline.tracking.store_faults import PROBE_SECONDS, StoreDown, down, without_password

DEFAULT_URI = "sqlite:///mlflow.db"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KNOWN = (
    "http://HOST:PORT, https://HOST, sqlite:///FILE, or postgresql, mysql or "
    "mssql://USER:PASSWORD@HOST/NAME"
)


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the address of this workspace's database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


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
        raise down(uri, error) from None


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
