"""A real MLflow server over HTTP that dies, refuses, hangs or is used by two machines. In the end
there is one finished run, and nothing is lost."""

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import paths
from pipeline.experiment.params import load_params
from pipeline.tracking import fill
from pipeline.tracking import live as live_curves
from pipeline.tracking import publish as publishing
from pipeline.tracking.live import start_live
from pipeline.tracking.payload import gather
from pipeline.tracking.publish import publish
from pipeline.tracking.store import find_runs, open_store
from stages import track
from tests.tracking_workspace import connected, make_workspace

pytestmark = pytest.mark.slow

RUN_FILE = Path("checkpoints/merge/mlflow.json")


class Faulty:
    """MLflow's own server application with faults.

    For each path, `fault` returns the status to answer with, or None for the real answer.
    """

    def __init__(self, application):
        self.application = application
        self.fault: Callable[[str], int | None] = lambda path: None
        self.requests: list[str] = []

    def __call__(self, environ, start_response):
        self.requests.append(environ["PATH_INFO"])
        status = self.fault(environ["PATH_INFO"])
        if status is None:
            return self.application(environ, start_response)
        start_response(
            f"{status} refused", [("Content-Type", "text/plain"), ("Content-Length", "2")]
        )
        return [b"no"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An MLflow server in this process. `uri` is its address, and tests set `fault` to break it."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder}/server.db")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(folder / "artifacts"))
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        from mlflow import set_registry_uri, set_tracking_uri
        from mlflow.server import app
        from werkzeug.serving import WSGIRequestHandler, make_server

        patch.setattr(WSGIRequestHandler, "log_request", lambda *args: None)
        faulty = Faulty(app.wsgi_app)
        running = make_server("127.0.0.1", 0, faulty, threaded=True)
        faulty.uri = f"http://127.0.0.1:{running.port}"
        threading.Thread(
            target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        open_store(faulty.uri).client.search_registered_models()
        # The first requests set the addresses of this process to the server's database.
        set_tracking_uri(None)
        set_registry_uri(None)
        del os.environ["MLFLOW_REGISTRY_URI"]  # The lines above leave it set.
        yield faulty
        running.shutdown()


@pytest.fixture
def workspace(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    make_workspace(tmp_path)
    yield tmp_path
    server.fault = lambda path: None
    for run in runs():
        open_store().client.delete_run(run.info.run_id)


def runs(condition=""):
    return find_runs(open_store(), condition)


def assert_one_whole_run():
    (run,) = runs("attributes.status = 'FINISHED'")
    store = open_store()
    points = store.client.get_metric_history(run.info.run_id, "curves/val_cider")
    assert [(m.step, m.value) for m in points] == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert run.data.metrics["test/bleu_4"] == 0.25
    assert run.data.params["args.hidden"] == "256"
    files = {file.path for file in store.client.list_artifacts(run.info.run_id)}
    assert {"captions", "history", "images", "samples.json", "scores"} <= files
    (output,) = run.outputs.model_outputs
    assert store.client.get_logged_model(output.model_id).status == "READY"
    return run


def test_a_server_that_dies_anywhere_in_a_publication_costs_one_line_and_is_completed_later(
    workspace, server, capfd
):
    server.requests.clear()
    publish(open_store(), gather("merge", load_params(), paths))
    whole = len(server.requests)
    open_store().client.delete_run(assert_one_whole_run().info.run_id)
    assert whole > 20
    for survived in (3, whole // 2, whole - 4):
        server.requests.clear()
        server.fault = lambda path, survived=survived: (
            None if len(server.requests) <= survived else 503
        )
        capfd.readouterr()
        track.main("merge")
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"warning: MLflow at {server.uri} is out of reach (")
        assert line.endswith("): 'merge' is kept in files, captionlab sync publishes it later")
        assert Path("data/runs/merge.pending").exists()
    server.fault = lambda path: None
    track.main("merge")
    assert_one_whole_run()
    assert [run.info.status for run in runs()] == ["FINISHED"]
    assert not Path("data/runs/merge.pending").exists()


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_refuses_is_one_line_that_says_how(workspace, server, capfd, status):
    server.fault = lambda path: None if path == "/health" else status
    track.main("merge")
    (line,) = capfd.readouterr().err.splitlines()
    assert str(status) in line
    assert Path("reports/runs/merge/receipt.json").exists()
    assert Path("data/runs/merge.pending").exists()


def test_a_server_that_hangs_is_given_up_after_the_time_of_one_request(
    workspace, server, capfd, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.fault = lambda path: None if path == "/health" else time.sleep(3) or 503
    started = time.monotonic()
    track.main("merge")
    assert time.monotonic() - started < 3
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_server_that_is_alive_and_answers_nothing_costs_a_stage_its_budget_alone(
    workspace, server, capfd, monkeypatch
):
    """The budget covers everything that waits to be published. It is not spent again for each
    request or variant."""
    monkeypatch.setenv("CAPTIONLAB_MLFLOW_SECONDS", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    for name in "abc":
        Path(f"data/runs/{name}.pending").parent.mkdir(parents=True, exist_ok=True)
        Path(f"data/runs/{name}.pending").touch()
    server.fault = lambda path: None if path == "/health" else time.sleep(8) or 503
    started = time.monotonic()
    track.main("merge")
    assert time.monotonic() - started < 7
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(": 'merge' is kept in files, captionlab sync publishes it later")


def test_a_server_that_dies_while_curves_arrive_costs_training_one_line(workspace, server, capfd):
    server.requests.clear()
    live = start_live("merge", load_params(), RUN_FILE)
    live.log(0, {"step_train_loss": 5.0})
    assert connected(live)
    deadline = time.monotonic() + 60
    while (
        not any(path.endswith("log-batch") for path in server.requests)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    server.fault = lambda path: 503
    live.log(10, {"val_cider": 0.1})
    live.close("FINISHED")
    live.log(20, {"val_cider": 0.2})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(": training continues; the stage track completes its curves")
    server.fault = lambda path: None
    track.main("merge")
    run = assert_one_whole_run()
    assert run.info.run_id == json.loads(RUN_FILE.read_text())["run_id"]


@pytest.mark.parametrize("seconds", [0, 30], ids=["dies", "hangs"])
def test_a_long_training_goes_on_alone_when_its_server_is_gone(
    workspace, server, capfd, monkeypatch, seconds
):
    """30,000 reports follow. None of them waits, the number kept is bounded, and there is one line
    of warning."""
    monkeypatch.setattr(live_curves, "GRACE", 2.0)
    monkeypatch.setenv("CAPTIONLAB_MLFLOW_SECONDS", "120")  # Enough for a busy machine.
    server.requests.clear()
    live = start_live("merge", load_params(), RUN_FILE)
    live.log(0, {"step_train_loss": 5.0})
    assert connected(live)
    deadline = time.monotonic() + 60
    while not any(path.endswith("log-batch") for path in server.requests):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    over = threading.Event()

    def refuse(path):
        over.wait(seconds)
        return 503

    server.fault = refuse
    began = time.monotonic()
    for step in range(1, 30_001):
        live.log(step, {"step_train_loss": 5.0})
        assert len(live._lines) <= live_curves.KEPT
    live.close("FINISHED")
    assert time.monotonic() - began < 30
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: MLflow ")
    over.set()
    server.fault = lambda path: None
    track.main("merge")
    assert assert_one_whole_run().info.run_id == json.loads(RUN_FILE.read_text())["run_id"]


def _another_machine(folder, ready):
    """Publish the same results from another folder to the same server."""
    os.chdir(folder)
    payload = gather("merge", load_params(), paths)
    ready.wait()
    publish(open_store(), payload)


def test_two_machines_that_publish_at_once_leave_one_finished_run(workspace, tmp_path_factory):
    other = tmp_path_factory.mktemp("machine")
    shutil.copytree(workspace, other, dirs_exist_ok=True)
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(2)
    processes = [
        context.Process(target=_another_machine, args=(folder, ready))
        for folder in (workspace, other)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_one_whole_run()
    assert [run.info.status for run in runs()] == ["FINISHED"]


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_who_ends_second_drops_its_own_run_and_its_model(
    workspace, tmp_path_factory, monkeypatch, status
):
    other = tmp_path_factory.mktemp("machine")
    shutil.copytree(workspace, other, dirs_exist_ok=True)
    log_model, look = fill._log_model, publishing._look

    def overtaken(store, run_id, payload):
        with monkeypatch.context() as patch:
            patch.setattr(fill, "_log_model", log_model)
            patch.chdir(other)
            assert publish(store, gather("merge", load_params(), paths))
        log_model(store, run_id, payload)

    def look_late(store, payload, filled):
        """End this machine's run before looking: it finished, or the other machine closed it."""
        if filled and not Path.cwd().samefile(other):
            store.client.set_terminated(filled, status)
        return look(store, payload, filled)

    with monkeypatch.context() as patch:
        patch.setattr(fill, "_log_model", overtaken)
        patch.setattr(publishing, "_look", look_late)
        publish(open_store(), gather("merge", load_params(), paths))
    run = assert_one_whole_run()
    assert [run.info.status for run in runs()] == ["FINISHED"]
    assert run.data.tags["workspace"].endswith(str(other))
    store = open_store()
    models = store.client.search_logged_models([store.experiment])
    assert [
        m.source_run_id for m in models if m.source_run_id in {r.info.run_id for r in runs()}
    ] == [run.info.run_id]


def test_what_another_machine_left_half_published_is_closed(workspace):
    store = open_store()
    payload = gather("merge", load_params(), paths)
    tags = {**payload.tags, "workspace": "gone:/home"}
    store.client.create_run(store.experiment, run_name="merge", tags=tags)
    publish(store, payload)
    assert sorted(run.info.status for run in runs()) == ["FINISHED", "KILLED"]
    assert_one_whole_run()


def test_an_open_run_that_its_own_machine_deletes_meanwhile_is_not_closed(workspace, monkeypatch):
    store = open_store()
    payload = gather("merge", load_params(), paths)
    tags = {**payload.tags, "workspace": "alive:/home"}
    run_id = store.client.create_run(store.experiment, run_name="merge", tags=tags).info.run_id

    def found_and_gone(store, condition):
        found = find_runs(store, condition)
        if any(run.info.status == "FINISHED" for run in found):
            store.client.delete_run(run_id)
        return found

    monkeypatch.setattr(publishing, "find_runs", found_and_gone)
    publish(store, payload)
    assert store.client.get_run(run_id).info.lifecycle_stage == "deleted"
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_a_finished_run_of_an_earlier_layout_is_filled_again(workspace):
    store = open_store()
    payload = gather("merge", load_params(), paths)
    run_id = store.client.create_run(store.experiment, tags=payload.tags).info.run_id
    store.client.set_terminated(run_id, "FINISHED")
    assert publish(store, payload)
    assert assert_one_whole_run().info.run_id == run_id
    assert not publish(store, payload)
