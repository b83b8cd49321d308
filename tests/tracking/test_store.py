"""Opening MLflow's store. The first process creates it completely or not at all, and every wrong
address gives a one-line error."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.core.errors import UserError
from pipeline.tracking.sqlite import is_abandoned
from pipeline.tracking.store import find_runs, open_store
from pipeline.tracking.store_address import address_of_process
from pipeline.tracking.store_budget import BoundedClient, Budget
from pipeline.tracking.store_faults import StoreBroken, StoreDown, trouble, without_password
from tests.faults import disk, full_disk, make_read_only


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


def killed_when_half_made(target, *arguments, file):
    """Run `target` in a process that kills itself when `file` has eight tables. A kill from outside
    might come too late."""

    def create():
        from sqlalchemy import Engine, event

        @event.listens_for(Engine, "before_cursor_execute")
        def stop(*_):
            if tables(file) >= 8:
                os.kill(os.getpid(), signal.SIGKILL)

        target(*arguments)

    process = forked(create)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert 8 <= tables(file) < 30


def mlflow_creates(file):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{file}", "mlruns")


def test_a_kill_while_the_store_is_made_leaves_none_and_the_next_makes_it(folder):
    killed_when_half_made(lambda: open_store(create=True), file=".mlflow.db.part/mlflow.db")
    assert not Path("mlflow.db").exists()
    store = open_store(create=True)
    run = store.client.create_run(store.experiment)
    assert [r.info.run_id for r in find_runs(store, "")] == [run.info.run_id]
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_what_a_kill_left_of_mlflows_own_creation_is_set_aside(folder):
    killed_when_half_made(mlflow_creates, folder / "mlflow.db", file="mlflow.db")
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


RENAME = "rename it, then captionlab sync fills a new one from this workspace"


def text(folder):
    Path("mlflow.db").write_text("my notes " * 100)
    return f"is broken (file is not a database): {RENAME}"


def cut(folder):
    open_store(create=True)
    os.truncate("mlflow.db", 40_960)
    return f"is broken (database disk image is malformed): {RENAME}"


def foreign(folder):
    with sqlite3.connect("mlflow.db") as other:
        other.execute("CREATE TABLE contacts (name)")
    return "is the database of another program: name another one"


def special(folder):
    os.mkfifo("mlflow.db")
    return "is not a regular file: set MLFLOW_TRACKING_URI to another file"


@pytest.mark.parametrize("spoil", [text, cut, foreign, special])
def test_a_file_that_cannot_be_a_store_is_told_with_the_cure_and_left_as_it_is(
    folder, spoil, capfd
):
    message = spoil(folder)
    before = Path("mlflow.db").read_bytes() if Path("mlflow.db").is_file() else None
    started = time.monotonic()
    with pytest.raises(StoreBroken) as refusal:
        open_store(create=True)
    assert time.monotonic() - started < 5
    assert str(refusal.value) == f"MLflow's database {folder}/mlflow.db {message}"
    assert before is None or Path("mlflow.db").read_bytes() == before
    assert capfd.readouterr().err == ""


def test_a_place_where_no_file_can_be_made_is_told_at_once(folder):
    started = time.monotonic()
    with pytest.raises(StoreBroken) as refusal:
        open_store("sqlite:////proc/mlflow.db", create=True)
    assert time.monotonic() - started < 5
    assert str(refusal.value) == (
        "MLflow's database /proc/mlflow.db cannot be written (no such file or directory in "
        "/proc): fix that, or name another place in MLFLOW_TRACKING_URI, then captionlab sync "
        "publishes there"
    )


def test_a_file_that_breaks_while_it_is_used_is_told_without_a_traceback(folder, capfd):
    store = open_store(create=True)
    store.client.create_run(store.experiment)
    content = bytearray(Path("mlflow.db").read_bytes())
    content[8192:] = bytes(len(content) - 8192)
    Path("mlflow.db").write_bytes(content)

    def use():
        with trouble(store.uri):
            for _ in range(3):  # The first may still be answered from a cache.
                store.client.create_run(store.experiment)

    with pytest.raises(StoreBroken, match=rf"mlflow\.db is broken: {RENAME}"):
        use()
    assert "Traceback" not in capfd.readouterr().err


def test_a_locked_store_is_given_up_after_the_time_of_a_stage(folder, capfd):
    open_store(create=True)
    holder = sqlite3.connect("mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(StoreDown, match=r"out of reach \(another program keeps it locked\)"):
        open_store(create=True, budget=Budget(1))
    assert time.monotonic() - started < 8
    holder.close()
    assert capfd.readouterr().err == ""
    assert open_store(create=True)


def of_a_lock(folder):
    """Another process creates the store: it holds the lock and has no file yet."""
    lock = FileLock(f"{folder}/mlflow.db.lock")
    lock.acquire()
    return lock.release


def of_half_a_file(folder):
    """Another program creates the store in place, as MLflow itself does, and never ends."""
    Path("mlflow.db").touch()
    return Path("mlflow.db").unlink


@pytest.mark.parametrize("made", [of_a_lock, of_half_a_file])
def test_a_store_that_another_program_is_making_costs_a_stage_no_more_than_its_budget(folder, made):
    end = made(folder)
    budget, started = Budget(1), time.monotonic()
    with pytest.raises(StoreDown, match=r"out of reach \(another program is still creating it\)"):
        open_store(create=True, budget=budget)
    assert time.monotonic() - started < 8
    assert budget.left <= 0
    end()
    assert open_store(create=True)


class Client:
    """A client whose calls take seconds on the fake clock below, and no real time."""

    def __init__(self, clock):
        self.clock, self.timeouts = clock, []

    def get_run(self, seconds):
        self.timeouts.append(int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
        self.clock.now += seconds
        return seconds

    log_artifacts = get_run


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def test_all_calls_of_a_stage_share_one_budget_and_no_request_waits_for_longer(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("pipeline.tracking.store_budget.time", clock)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    inner = Client(clock)
    client = BoundedClient(inner, "http://me:secret@host", Budget(10))
    for _ in range(50):
        assert client.get_run(0.4) == 0.4  # A busy server is not treated as dead.
    client.get_run(4.5)
    client.log_artifacts(100)  # This call moves files.
    client.get_run(6.5)
    assert inner.timeouts == [5] * 51 + [60, 3]
    with pytest.raises(StoreDown) as refusal:
        client.get_run(0)
    assert str(refusal.value) == (
        "MLflow at http://host is too slow: it has taken the 10 s that a stage waits for it "
        "(CAPTIONLAB_MLFLOW_SECONDS)"
    )
    assert len(inner.timeouts) == 53


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon"])
def test_a_budget_that_is_no_number_of_seconds_is_one_line(monkeypatch, given):
    monkeypatch.setenv("CAPTIONLAB_MLFLOW_SECONDS", given)
    with pytest.raises(UserError) as refusal:
        Budget.of_stage()
    assert str(refusal.value) == (
        f"CAPTIONLAB_MLFLOW_SECONDS={given}: expected a number of seconds above 0"
    )


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
        "is not the address of an MLflow store: use http://HOST:PORT, https://HOST, sqlite:///FILE, or"
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
    """A function that sets two tracking addresses, or removes them with None: the one of this
    process, and the one in the environment."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # monkeypatch restores it at the end.

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
        "pipeline.tracking.store_faults.StoreDown: MLflow cannot be imported here ("
    )


def test_opening_a_store_looks_nothing_up_elsewhere(folder):
    """MLflow 3.17 downloads a telemetry configuration on import, unless the environment disables
    telemetry first."""
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


@pytest.mark.parametrize(("ago", "abandoned"), [(0, False), (60, True), (-3600, True)])
def test_a_clock_that_is_put_back_makes_nobody_wait_for_a_store_that_is_not_made(
    tmp_path, ago, abandoned
):
    (tmp_path / "mlflow.db").touch()
    os.utime(tmp_path / "mlflow.db", (0, time.time() - ago))
    assert is_abandoned(tmp_path / "mlflow.db") == abandoned


def test_a_store_on_a_read_only_disk_is_told_with_the_cure(folder, database):
    with disk(folder / "disk", "16m") as place:
        shutil.copy(database, place / "mlflow.db")
        make_read_only(place)
        with pytest.raises(StoreBroken) as refusal:
            open_store("sqlite:///disk/mlflow.db", create=True)
    assert str(refusal.value) == (
        f"MLflow's database {place}/mlflow.db cannot be written (read-only file system in "
        f"{place}): fix that, or name another place in MLFLOW_TRACKING_URI, then captionlab sync "
        "publishes there"
    )


def test_a_store_that_does_not_fit_on_its_disk_is_told_and_leaves_nothing(folder):
    with full_disk(folder / "disk") as place:
        with pytest.raises(StoreDown, match=r"\(the disk of its database is full: free some space"):
            open_store("sqlite:///disk/mlflow.db", create=True)
        assert sorted(path.name for path in place.iterdir()) == ["filled", "mlflow.db.lock"]
        (place / "filled").unlink()


def test_a_full_disk_of_the_database_is_said_as_such():
    said = r"out of reach \(the disk of its database is full: free"
    with pytest.raises(StoreDown, match=said), trouble("sqlite:///x.db"):
        raise OSError("(sqlite3.OperationalError) database or disk is full [SQL: INSERT]")
