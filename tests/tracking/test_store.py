"""Opening MLflow's store: made whole or not at all by whoever comes first, and one line for every
address that is none."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.tracking.store import (
    StoreDown,
    address_of_process,
    find_runs,
    open_store,
    without_password,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  imported once, before processes are forked

    return tmp_path


def forked(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def tables(file):
    try:
        with sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", uri=True) as found:
            return len(
                found.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            )
    except sqlite3.Error:
        return 0


def kill_when_half_made(process, file):
    deadline = time.monotonic() + 60
    while tables(file) < 8 and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert 8 <= tables(file) < 30


def mlflow_creates(file):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{file}", "mlruns")


def test_a_kill_while_the_store_is_made_leaves_none_and_the_next_makes_it(folder):
    process = forked(lambda: open_store(create=True))
    kill_when_half_made(process, ".mlflow.db.part/mlflow.db")
    assert not Path("mlflow.db").exists()
    store = open_store(create=True)
    run = store.client.create_run(store.experiment)
    assert [r.info.run_id for r in find_runs(store, "")] == [run.info.run_id]
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_what_a_kill_left_of_mlflows_own_creation_is_set_aside(folder):
    process = forked(mlflow_creates, folder / "mlflow.db")
    kill_when_half_made(process, "mlflow.db")
    os.utime("mlflow.db", (0, 0))
    open_store(create=True)
    assert Path("mlflow.db.unfinished").exists()
    assert find_runs(open_store(), "") == []


def test_a_store_that_another_program_is_making_is_waited_for(folder):
    process = forked(mlflow_creates, folder / "mlflow.db")
    while not tables("mlflow.db"):
        time.sleep(0.005)
    open_store(create=True)
    process.join()
    assert process.exitcode == 0
    assert not Path("mlflow.db.unfinished").exists()


def _use_store(barrier, results):
    barrier.wait()
    store = open_store(create=True)
    results.put(store.client.create_run(store.experiment).info.experiment_id)


def test_four_processes_may_create_the_store_at_once(folder):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [forked(_use_store, barrier, results) for _ in range(4)]
    assert [results.get(timeout=60) for _ in processes] == ["1"] * 4
    for process in processes:
        process.join()
    assert len(find_runs(open_store(), "")) == 4


def test_who_only_reads_makes_no_store(folder):
    with pytest.raises(StoreDown) as refusal:
        open_store()
    assert str(refusal.value) == (
        f"there is no MLflow store {folder}/mlflow.db: run this in a workspace after dvc "
        "repro, or set MLFLOW_TRACKING_URI"
    )
    assert list(folder.iterdir()) == []


def test_what_is_no_database_is_left_as_it_is(folder):
    Path("mlflow.db").write_text("my notes " * 100)
    with pytest.raises(StoreDown, match=r"mlflow\.db is out of reach \(.*not a database"):
        open_store(create=True)
    assert Path("mlflow.db").read_text() == "my notes " * 100


def test_the_files_of_runs_stand_beside_the_database_wherever_it_is(folder):
    store = open_store("sqlite:///elsewhere/runs.db", create=True)
    location = store.client.get_experiment(store.experiment).artifact_location
    assert Path(location.removeprefix("file://")) == folder / "elsewhere/mlruns/captionlab"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nowhere",
        "./runs.db",
        "mlruns/",
        "httq://host",
        "http://",
        "http://host:port",
        "sqlite:///",
        "sqlite://x.db",
    ],
)
def test_what_is_no_address_is_told_with_those_that_are(folder, address):
    with pytest.raises(StoreDown) as refusal:
        open_store(address or "sqlite:///.", create=True)
    assert (
        "is no address of an MLflow store: write http://HOST:PORT, https://HOST, sqlite:///FILE, or"
        in str(refusal.value)
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:secret@127.0.0.1:9/runs",
        "http://user:se/cret@127.0.0.1:9",
        "httq://user:secret@host",
        "postgresql://127.0.0.1:9/runs?user=me&password=secret",
        "postgresql+psycopg2://user:secret@127.0.0.1:9/runs",
    ],
)
def test_a_password_in_the_address_is_not_shown(folder, address):
    with pytest.raises(StoreDown) as refusal:
        open_store(address)
    assert "cret" not in str(refusal.value)


def test_a_password_inside_a_librarys_message_is_not_shown():
    message = "API request to https://me:p@ss@host/api failed; mssql://host/db?PWD=x&driver=y"
    assert (
        without_password(message)
        == "API request to https://host/api failed; mssql://host/db?PWD=***&driver=y"
    )


@pytest.fixture
def address(folder, monkeypatch):
    """Sets the address of this process, or none, while the environment has this one, or none."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # so that it is as before in the end

    def given(own, environment):
        mlflow.set_tracking_uri(own)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ |= {"MLFLOW_TRACKING_URI": environment} if environment else {}

    yield given
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("own", [None, "sqlite:////own.db"])
@pytest.mark.parametrize("environment", [None, "sqlite:////environment.db"])
def test_the_address_of_the_process_is_afterwards_as_before_whoever_had_set_it(
    address, folder, own, environment
):
    from mlflow import get_tracking_uri

    address(own, environment)
    before = get_tracking_uri()
    with address_of_process("sqlite:///other.db"):
        assert get_tracking_uri() == f"sqlite:///{folder}/other.db"
    assert (get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")) == (before, environment)
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:////later.db"
    assert get_tracking_uri() == (own or "sqlite:////later.db")


def test_without_mlflow_a_store_is_down(folder):
    code = (
        "import sys; sys.modules['mlflow'] = None; from pipeline.tracking.store import "
        "open_store; open_store(create=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith(
        "pipeline.tracking.store.StoreDown: MLflow cannot be imported here ("
    )


def test_opening_a_store_looks_nothing_up_elsewhere(folder):
    """MLflow 3.17 fetches a configuration of its telemetry when it is imported, unless the
    environment says no before."""
    code = """
import os, socket, threading
for name in [n for n in os.environ if n in ("CI", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "PYTEST_CURRENT_TEST")]:
    del os.environ[name]
socket.socket.connect = lambda self, address: print("connects to", address)
from pipeline.tracking.store import open_store
store = open_store(create=True)
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client(), [t.name for t in threading.enumerate()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None ['MainThread']\n"
