"""`captionlab ui`: MLflow's pages over the runs of this workspace, opened where they compare."""

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

STARTS = 300.0
"seconds that MLflow's server may take to answer; 12 on two free cores"
COMPARISON = "workflowType=machine_learning&compareRunsMode=CHART"
"""of a page of MLflow 3.17: not that of traces, which an experiment without any opens on, but the
charts of all runs"""


def command(
    host: Annotated[
        str,
        typer.Option(
            help="127.0.0.1 is this machine alone; 0.0.0.0 is everybody who can reach it."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Serve MLflow's pages over the runs of this workspace, and print the link to their comparison.

    With a server in MLFLOW_TRACKING_URI, only the link is printed.
    """
    from pipeline.tracking.store import open_store, trouble, without_password
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
    """The link to the charts of all runs, the best on validation first."""
    from pipeline.tracking.view import VIEW

    page = f"{address.rstrip('/')}/#/experiments/{store.experiment}/runs"
    return f"{page}?{COMPARISON}&viewStateShareKey={VIEW}"


@contextmanager
def serving(uri: str, host: str, port: int) -> "Iterator[tuple[subprocess.Popen[bytes], str]]":
    """Yields MLflow's server once it answers, and its address; it ends with the block, also on
    SIGTERM.

    Raises:
        UserError: it ends, or does not answer within `STARTS`; its own words stand above.
    """
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    quiet = ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), *quiet],
        env={
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": uri,  # an argument would show its password to everybody
            "PYTHONWARNINGS": "ignore",  # deprecations inside MLflow, above the link
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 1.3 GB of processes with no job
        },
        start_new_session=True,  # its worker ends with it, which a signal to it alone leaves
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
