"""Shared fixtures. Each test process gets one thread: two workers share two cores, and the spinning
threads of one would stall the other."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in [n for n in os.environ if n.startswith(("CAPTIONLAB_", "MLFLOW_TRACKING", "DVC_"))]:
    del os.environ[name]


# Test files that take minutes. They run first; otherwise one worker would end long before the
# other. The first one makes the workspace that several of them wait for.
LONGEST = (
    "graph/test_graph.py",
    "captionlab/test_export.py",
    "training/test_trainer.py",
    "docs/test_walkthrough.py",
    "graph/test_restored.py",
    "docs/test_how_to.py",
    "tracking/test_server.py",
    "captionlab/test_plan.py",
    "training/test_ranks.py",
    "running/test_ray.py",
    "running/test_local.py",
    "running/test_caption_on_ray.py",
    "extraction/test_on_ray.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {str(Path(__file__).parent / file): place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(LONGEST)))


@pytest.fixture
def captionlab(monkeypatch, capsys):
    """A function that runs the command line and returns status, standard output, standard error."""
    from captionlab import __main__

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["captionlab", *map(str, arguments)])
        status = 0
        try:
            __main__.main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def server(monkeypatch):
    """A running HTTP server on 127.0.0.1 (see tests/releases.py)."""
    from tests.releases import Server

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        threading.Thread(
            target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def restore_java() -> Iterator[None]:
    """Restore PATH and JDK_JAVA_OPTIONS after the module. `use_java` changes both for its process,
    so a module that calls it needs this fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        patch.setenv("JDK_JAVA_OPTIONS", "")
        yield


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """The path of an mlflow.db without runs, to be copied: creating the tables takes more than a
    second."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
