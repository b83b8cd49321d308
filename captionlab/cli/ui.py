"""`captionlab ui`: serve MLflow's pages on this workspace's runs, and link to their comparison."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from captionlab.address import check_address
from pipeline.core.errors import UserError, say

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

# Seconds that MLflow's server may take to answer. It takes 12 on two free cores.
STARTS = 300.0
# Selects a page of MLflow 3.17: the charts of all runs. Otherwise an experiment opens on the page
# of traces, even if it has none.
COMPARISON = "workflowType=machine_learning&compareRunsMode=CHART"


def command(
    host: Annotated[
        str,
        typer.Option(help="127.0.0.1 allows this machine only; 0.0.0.0 everyone who can reach it."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Serve MLflow's pages on the runs of this workspace, and print the link to their comparison.

    If MLFLOW_TRACKING_URI names a server, only the link is printed.
    """
    from pipeline.tracking.store import open_store
    from pipeline.tracking.store_faults import trouble, without_password
    from pipeline.tracking.view import write_view

    store = open_store()
    with trouble(store.uri):
        write_view(store)
    if store.uri.startswith("http"):
        return say(comparison(without_password(store.uri), store))
    check_address(host, port)
    try:
        with serving(store.uri, host, port) as (server, address):
            say(f"{comparison(address, store)} (Ctrl-C ends it)")
            server.wait()
            raise UserError(f"MLflow's server at {address} has ended: run captionlab ui again")
    except KeyboardInterrupt:
        print(file=sys.stderr)


def comparison(address: str, store: "Store") -> str:
    """Return the link to the charts of all runs, the best on validation first."""
    from pipeline.tracking.view import VIEW

    page = f"{address.rstrip('/')}/#/experiments/{store.experiment}/runs"
    return f"{page}?{COMPARISON}&viewStateShareKey={VIEW}"


@contextmanager
def serving(uri: str, host: str, port: int) -> "Iterator[tuple[subprocess.Popen[bytes], str]]":
    """Yield MLflow's server and its address, once it answers.

    The server ends with the block, also on SIGTERM.

    Raises:
        UserError: the server ends, or does not answer within `STARTS` seconds. Its own error is
            printed before.
    """
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    quiet = ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), *quiet],
        env={
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": uri,  # an argument would show its password to everybody
            "PYTHONWARNINGS": "ignore",  # hides MLflow's own deprecations above the link
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 1.3 GB of idle processes
        },
        start_new_session=True,  # so that a signal to the group also ends its worker
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _wait(server, address)
        yield server, address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        signal.signal(signal.SIGTERM, before)


def _wait(server: "subprocess.Popen[bytes]", address: str) -> None:
    until = time.monotonic() + STARTS
    while not _answers(address):
        if server.poll() is not None or time.monotonic() > until:
            raise UserError(f"MLflow's server does not start at {address}: its error stands above")
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=1).close()
    except OSError:  # URLError is one
        return False
    return True
