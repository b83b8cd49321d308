"""`captionlab ui` prints a link to the comparison, and its server ends with the command."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from captionlab.cli import ui
from pipeline.tracking.store import open_store

# A server that answers the health check as MLflow's server does. With `once`, it ends after the
# first request.
STAND_IN = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments):
        pass

server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.handle_request() if sys.argv[2] == "once" else server.serve_forever()
"""
LINK = (
    "/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
    "&viewStateShareKey=best-on-validation"
)


@pytest.fixture
def workspace(tmp_path, monkeypatch, database):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch):
    """A function that puts a stand-in in the place of MLflow's server. Its argument says how long
    the stand-in runs. It returns a list that collects the calls and the started processes."""
    given, start = [], subprocess.Popen

    def install(lasts):
        def popen(arguments, **options):
            given.append((arguments, options["env"]))
            port = arguments[arguments.index("--port") + 1]
            command = [sys.executable, "-c", STAND_IN, port, lasts]
            given.append(start(command, start_new_session=True))
            return given[-1]

        monkeypatch.setattr(subprocess, "Popen", popen)
        return given

    return install


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_link_leads_to_the_charts_in_the_view_that_the_experiment_has(
    workspace, captionlab, stand_in, port
):
    given = stand_in("once")
    status, out, err = captionlab("ui", "--port", port)
    assert out == f"http://127.0.0.1:{port}{LINK} (Ctrl-C ends it)\n"
    assert (status, err.splitlines()[-1]) == (
        2,
        f"error: MLflow's server at http://127.0.0.1:{port} has ended: run captionlab ui again",
    )
    store = open_store()
    assert "mlflow.sharedViewState.best-on-validation" in (
        store.client.get_experiment(store.experiment).tags
    )
    assert parsed(given[0][0])["port"] == port
    assert given[0][1]["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{workspace}/mlflow.db"


def parsed(arguments):
    """Parse arguments with MLflow's own command line, and return its parameters."""
    from mlflow.cli import cli

    _, module, name, command, *options = arguments
    assert (module, name) == ("-m", "mlflow")
    return cli.commands[command].make_context(command, options).params


def test_the_server_ends_with_the_command(workspace, captionlab, stand_in, port, monkeypatch):
    given = stand_in("for ever")
    monkeypatch.setattr(ui, "say", lambda text: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert captionlab("ui", "--port", port) == (0, "", "\n")
    assert given[1].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_server_that_does_not_start_and_a_port_that_is_taken_are_one_line(
    workspace, captionlab, monkeypatch, port
):
    monkeypatch.setattr(ui, "_answers", lambda address: False)
    monkeypatch.setattr(ui, "STARTS", 0)
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    status, out, err = captionlab("ui", "--port", port)
    told = f"MLflow's server does not start at http://127.0.0.1:{port}: its error stands above"
    assert (status, out, err) == (2, "", f"error: {told}\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        status, out, err = captionlab("ui", "--port", port)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: cannot serve at 127.0.0.1:{port} (")


def test_without_a_store_the_line_says_how_to_make_one(tmp_path, monkeypatch, captionlab):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    status, out, err = captionlab("ui")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: there is no MLflow store {tmp_path}/mlflow.db: ")
    assert not list(tmp_path.iterdir())
