"""Runs in real sqlite stores. The tests check what a run holds, and that kills, repetitions and
dead servers leave exactly one run of a result."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock

from captionlab.champion import register
from pipeline.core import paths
from pipeline.core.errors import UserError
from pipeline.core.git import git_commit
from pipeline.experiment.params import load_params
from pipeline.tracking.cost import write_cost
from pipeline.tracking.live import Live, delay, start_live
from pipeline.tracking.payload import gather
from pipeline.tracking.receiver import messages, receive
from pipeline.tracking.store import find_runs, open_store
from pipeline.tracking.tags import flat_params, tags
from pipeline.tracking.versions import dvc_md5, lock_entries
from stages import track
from tests.faults import disk, fill
from tests.tracking_workspace import SCORES, connected, lock_variant, make_variant, make_workspace
from tests.workspace import tool

IDS = [f"scene{n:02}" for n in range(30)]
RUN_FILE = Path("checkpoints/merge/mlflow.json")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def workspace(tmp_path, monkeypatch, database):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_workspace(tmp_path)
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path


def runs(condition=""):
    return find_runs(open_store(), condition)


def statuses():
    return sorted((run.info.run_name, run.info.status) for run in runs())


def history_of(run, metric):
    return sorted(
        (m.step, m.value) for m in open_store().client.get_metric_history(run.info.run_id, metric)
    )


def train_live(*batches):
    """Run the receiver in this process on batches of messages, as if `merge` were being trained."""
    params = load_params()
    header = {
        "variant": "merge",
        "params": flat_params("merge", params),
        "tags": tags("merge", params),
        "file": str(RUN_FILE),
    }
    receive(iter([[header], *batches]))


def epoch(number, cider):
    values = {"epoch": number, "train_loss": 4.0 - number, "val_cider": cider}
    return {"step": 10 * number, "time": 1000 * number, "values": values}


DONE = {"close": "FINISHED"}
START = {"step": 0, "time": 1, "values": {"step_train_loss": 5.0}}


def test_a_finished_run_holds_params_scores_curves_files_and_a_model(workspace):
    track.main("merge")
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "merge"
    assert run.data.params["args.hidden"] == "256"
    assert run.data.params["encoder.model"] == "tf_efficientnet_lite0"
    assert history_of(run, "curves/val_cider") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert history_of(run, "val/cider") == [(0, 0.6)]
    assert run.data.metrics["test/bleu_4"] == 0.25
    assert run.data.tags["unavailable.spice"] == "no models"
    assert run.data.tags["dvc.data/corpora/scenes"] == "c0ffee.dir"
    assert "dvc.pipeline/train.py" not in run.data.tags
    client = open_store().client
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
        "captions",
        "history",
        "images",
        "samples.json",
        "scores",
        "table_rows.json",
    ]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "scores/merge")] == [
        f"scores/merge/{name}"
        for name in ("about.json", "images.parquet", "resamples.parquet", "scores.csv")
    ]
    assert len(client.list_artifacts(run.info.run_id, "images")) == 2 * 6
    table = json.loads((Path(run.info.artifact_uri) / "samples.json").read_text())
    assert table["columns"] == ["image_id", "caption", "log_prob", "references", "cider"]
    assert table["data"][1] == [
        *("scene02", "a caption of scene02", -1.5),
        *("reference 0 of scene02 | reference 1 of scene02", 0.5),
    ]
    model = Path(client.get_logged_model(run.outputs.model_outputs[0].model_id).artifact_location)
    kept = sorted(path.name for path in (model / "artifacts/captioner").iterdir())
    assert kept == [
        "README.md",
        "config.json",
        "decode.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert not list(model.rglob("*.pkl"))


def test_the_pages_show_the_best_first_each_picture_beside_the_others_and_the_data_version(
    workspace,
):
    track.main("merge")
    (run,) = runs()
    assert run.data.tags["mlflow.note.content"] == (
        "merge on timm_model: val/cider 0.6000, val/bleu_4 0.3000, test/cider 0.4000, "
        "test/bleu_4 0.2500; "
        f"weights of epoch 3 of 3\n\n{run.data.tags['protocol']}"
    )
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("scenes", "c0ffee.dir")
    assert not {"curves/epoch", "curves/best", "epoch", "best"} & set(run.data.metrics)
    store = open_store()
    page = store.client.get_experiment(store.experiment).tags
    view = json.loads(page["mlflow.sharedViewState.best-on-validation"])
    state = json.loads(view["state"])
    assert (view["name"], state["orderByKey"], state["orderByAsc"]) == (
        "best on validation",
        "metrics.`val/cider`",
        False,
    )
    assert state["orderByKey"] in state["selectedColumns"]
    sections = [section["name"] for section in state["compareRunSections"]]
    assert sections == ["val", "test", "curves", "cost", "captions"]
    assert [section["uuid"] for section in state["compareRunSections"]] == sections
    first = [chart.get("metricKey") for chart in state["compareRunCharts"]][:8]
    assert first == [
        *("val/cider", "val/bleu_4", "val/meteor", "val/rouge_l"),
        *("test/cider", "test/bleu_4", "test/meteor", "test/rouge_l"),
    ]
    places = [sections.index(chart["metricSectionId"]) for chart in state["compareRunCharts"]]
    assert places == sorted(places)
    shown = {key for chart in state["compareRunCharts"] for key in chart.get("imageKeys", [])}
    files = [file.path for file in store.client.list_artifacts(run.info.run_id, "images")]
    assert shown == {file.removeprefix("images/").split("+")[0].replace("~", "/") for file in files}


@pytest.mark.parametrize("commit", ["c0ffee1", "c0ffee1+"])
def test_the_run_and_its_card_name_the_commit_of_the_tables(workspace, commit):
    about = Path("data/scores/merge/about.json")
    about.write_text(json.dumps({**json.loads(about.read_text()), "commit": commit}))
    lock_variant(workspace, "merge")
    track.main("merge")
    (run,) = runs()
    assert run.data.tags["git.commit"] == commit
    client = open_store().client
    model = Path(client.get_logged_model(run.outputs.model_outputs[0].model_id).artifact_location)
    card = (model / "artifacts/captioner/README.md").read_text()
    assert f"commit: {commit}\n" in card
    rows = json.loads((Path(run.info.artifact_uri) / "table_rows.json").read_text())["rows"]
    assert rows[0]["about"]["commit"] == commit


def test_publishing_twice_makes_one_run_and_the_same_receipt(workspace):
    track.main("merge")
    receipt = Path("reports/runs/merge/receipt.json").read_bytes()
    took = {"peak": 2_500_000_000, "seconds": 60.0, "step_seconds": 40.0, "images": 1000}
    write_cost(Path("checkpoints/merge/cost.json"), Path("models/merge"), "cpu", **took)
    track.main("merge")
    assert statuses() == [("merge", "FINISHED")]
    assert Path("reports/runs/merge/receipt.json").read_bytes() == receipt
    assert list(json.loads(receipt)) == ["fingerprint", "payload"]


def test_a_run_tells_what_its_training_took_and_nothing_of_another_training(workspace):
    took = {"peak": 2_500_000_000, "seconds": 60.0, "step_seconds": 40.0, "images": 1000}
    for name, model in (("merge", "merge"), ("lstm", "merge")):
        write_cost(Path(f"checkpoints/{name}/cost.json"), Path("models", model), "cuda:0", **took)
        track.main(name)
    cost = {
        run.info.run_name: {k: v for k, v in run.data.metrics.items() if k.startswith("cost/")}
        for run in runs()
    }
    assert cost == {
        "merge": {
            "cost/train_seconds": 60.0,
            "cost/images_per_second": 25.0,
            "cost/peak_memory_gb": 2.5,
        },
        "lstm": {},
    }
    assert [run.data.tags.get("device") for run in runs("tags.variant = 'merge'")] == ["cuda:0"]


def test_a_receipt_is_the_same_for_a_new_store(workspace, database, monkeypatch):
    track.main("merge")
    receipt = Path("reports/runs/merge/receipt.json").read_bytes()
    shutil.copy(database, "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    track.main("merge")
    assert statuses() == [("merge", "FINISHED")]
    assert Path("reports/runs/merge/receipt.json").read_bytes() == receipt


def test_another_result_of_a_variant_is_another_run(workspace):
    track.main("merge")
    make_variant(workspace, "merge", IDS, cider=(0.1, 0.2, 0.9))
    track.main("merge")
    assert statuses() == [("merge", "FINISHED")] * 2


def test_training_through_the_receiving_process_is_completed_by_track(workspace):
    live = start_live("merge", load_params(), RUN_FILE)
    live.log(0, {"step_train_loss": 5.0})
    live.log(10, epoch(1, 0.1)["values"])
    assert connected(live)
    live.close("FINISHED")
    (run,) = runs()
    assert run.info.status == "RUNNING"
    assert history_of(run, "curves/val_cider") == [(10, 0.1)]
    assert json.loads(RUN_FILE.read_text())["run_id"] == run.info.run_id
    track.main("merge")
    (finished,) = runs()
    assert finished.info.run_id == run.info.run_id
    assert finished.info.status == "FINISHED"
    assert history_of(finished, "curves/val_cider") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert history_of(finished, "curves/step_train_loss") == [(0, 5.0)]


def test_a_training_killed_without_a_word_leaves_a_killed_run_and_continues_it(workspace):
    train_live([START, epoch(1, 0.1)], [epoch(2, 0.2)])
    assert statuses() == [("merge", "KILLED")]
    train_live([epoch(2, 0.2), epoch(3, 0.3), DONE])  # The training resumed after epoch 1.
    (run,) = runs()
    assert run.info.status == "RUNNING"
    assert history_of(run, "curves/val_cider") == [(10, 0.1), (20, 0.2), (30, 0.3)]


def test_a_receiver_that_has_its_store_when_the_training_is_gone_opens_no_run(workspace):
    receive(iter([[{"variant": "merge"}, START]]), trains=lambda: False)
    assert runs() == []


def test_a_training_that_starts_anew_gets_a_new_run(workspace):
    train_live([START, epoch(1, 0.1)])
    train_live([START, epoch(1, 0.1), DONE])
    assert statuses() == [("merge", "KILLED"), ("merge", "RUNNING")]


def test_a_training_with_other_params_gets_a_new_run(workspace):
    train_live([START, epoch(1, 0.1)])
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002"))
    train_live([epoch(2, 0.1), DONE])
    assert sorted(run.data.params["train.lr"] for run in runs()) == ["0.001", "0.002"]


def test_live_curves_of_another_result_are_not_completed(workspace):
    train_live([START, epoch(1, 0.15), DONE])  # The history file has 0.1.
    track.main("merge")
    assert statuses() == [("merge", "FINISHED"), ("merge", "KILLED")]
    (finished,) = runs("attributes.status = 'FINISHED'")
    assert history_of(finished, "curves/val_cider") == [(10, 0.1), (20, 0.2), (30, 0.3)]


def test_training_again_what_is_published_leaves_no_second_run(workspace):
    track.main("merge")
    train_live([START, epoch(1, 0.1), epoch(2, 0.2), epoch(3, 0.3), DONE])
    track.main("merge")
    assert statuses() == [("merge", "FINISHED")]


def test_an_open_run_of_another_workspace_is_left_alone(workspace):
    store = open_store()
    store.client.create_run(
        store.experiment, run_name="merge", tags={"variant": "merge", "workspace": "other:/home"}
    )
    track.main("merge")
    assert statuses() == [("merge", "FINISHED"), ("merge", "RUNNING")]


@pytest.mark.parametrize(
    "moment",
    [
        "log_batch",
        "log_artifacts",
        "log_model_artifacts",
        "finalize_logged_model",
        "set_terminated",
    ],
)
def test_a_publication_killed_half_way_is_completed(workspace, monkeypatch, moment):
    from mlflow import MlflowClient

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            track.main("merge")
    assert not Path("reports/runs/merge/receipt.json").exists()
    track.main("merge")
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert history_of(run, "curves/val_cider") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert len(json.loads((Path(run.info.artifact_uri) / "samples.json").read_text())["data"]) == 15
    store = open_store()
    (model,) = store.client.search_logged_models([store.experiment])
    assert model.status == "READY"
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_a_dead_server_costs_one_line_and_a_later_track_completes_it(workspace, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    start = time.monotonic()
    track.main("merge")
    assert time.monotonic() - start < 4
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: MLflow at {NOWHERE} is out of reach (")
    assert Path("reports/runs/merge/receipt.json").is_file()
    assert Path("data/runs/merge.pending").is_file()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    track.main("lstm")
    assert statuses() == [("lstm", "FINISHED"), ("merge", "FINISHED")]
    assert not Path("data/runs/merge.pending").exists()


def test_a_stage_waits_for_another_publication_no_longer_than_its_budget(
    workspace, monkeypatch, capfd
):
    monkeypatch.setenv("CAPTIONLAB_MLFLOW_SECONDS", "0.5")
    lock = gather("merge", load_params(), paths).lock
    lock.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with FileLock(lock):
        track.main("merge")
    assert time.monotonic() - started < 15
    assert capfd.readouterr().err.splitlines() == [
        "warning: another process is still publishing from this workspace: 'merge' is kept in "
        "files, captionlab sync publishes it later"
    ]
    assert Path("data/runs/merge.pending").is_file()
    assert Path("reports/runs/merge/receipt.json").is_file()
    track.main("lstm")  # It publishes what is pending.
    assert statuses() == [("lstm", "FINISHED"), ("merge", "FINISHED")]


def test_a_full_disk_of_the_database_costs_one_line_and_sync_completes_it(
    workspace, database, monkeypatch, capsys, captionlab
):
    with disk(workspace / "disk", "16m") as place:
        shutil.copy(database, place / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///disk/mlflow.db")
        fill(place)
        track.main("merge")
        (line,) = capsys.readouterr().err.splitlines()
        assert "is out of reach (" in line
        assert "full" in line or "No space left" in line
        assert line.endswith("'merge' is kept in files, captionlab sync publishes it later")
        receipt = Path("reports/runs/merge/receipt.json").read_bytes()
        assert Path("data/runs/merge.pending").is_file()
        (place / "filled").unlink()
        status, out, _ = captionlab("sync")
        assert (status, out.splitlines()[0]) == (0, "merge: published")
        assert statuses() == [("lstm", "FINISHED"), ("merge", "FINISHED")]
        track.main("merge")
        assert Path("reports/runs/merge/receipt.json").read_bytes() == receipt


def damaged(file):
    """Overwrite all but the first page of a database, as a failing disk does."""
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def test_a_broken_database_is_told_with_its_cure_and_the_receipt_is_right(
    workspace, database, capsys, captionlab
):
    """No later sync can cure the file, so none is promised."""
    track.main("merge")
    sound = Path("reports/runs/merge/receipt.json").read_bytes()
    shutil.rmtree("reports/runs")
    damaged(Path("mlflow.db"))
    broken = Path("mlflow.db").read_bytes()
    capsys.readouterr()
    track.main("merge")
    (line,) = capsys.readouterr().err.splitlines()
    start = f"warning: MLflow's database {workspace}/mlflow.db is broken ("
    cure = "rename it, then captionlab sync fills a new one from this workspace"
    assert line.startswith(start)
    assert line.endswith(f"): {cure}: 'merge' is kept in files, no run of it is lost")
    assert "later" not in line
    assert Path("reports/runs/merge/receipt.json").read_bytes() == sound
    assert Path("data/runs/merge.pending").is_file()
    status, out, err = captionlab("sync", "--quiet")
    assert (status, out, err.count("\n")) == (0, "", 1)
    assert err.startswith(start)
    assert err.endswith(f"): {cure}: nothing is lost\n")
    status, out, err = captionlab("sync")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.endswith(f"): {cure}\n")
    assert Path("mlflow.db").read_bytes() == broken
    Path("mlflow.db").rename("mlflow.db.broken")
    # In another process: this one has connections to the broken file.
    done = subprocess.run([tool("captionlab"), "sync"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["merge: published", "lstm: published"]
    with closing(sqlite3.connect("mlflow.db")) as found:
        kept = found.execute("SELECT name, status FROM runs ORDER BY name").fetchall()
    assert kept == [("lstm", "FINISHED"), ("merge", "FINISHED")]
    assert not Path("data/runs/merge.pending").exists()


def test_a_pending_variant_that_is_being_made_again_has_to_wait(workspace):
    Path("data/runs").mkdir()
    Path("data/runs/lstm.pending").touch()
    shutil.rmtree("models/lstm")
    track.main("merge")
    assert statuses() == [("merge", "FINISHED")]
    assert Path("data/runs/lstm.pending").exists()


def test_a_dead_server_costs_a_training_one_line_and_no_time(workspace, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    live = start_live("merge", load_params(), RUN_FILE)
    live.log(0, {"step_train_loss": 5.0})
    live._receiver.wait(60)
    live.log(1, {"step_train_loss": 5.0})
    live.close("FINISHED")
    live.log(2, {"step_train_loss": 5.0})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(": training continues; the stage track completes its curves")
    assert not RUN_FILE.exists()


def test_a_training_that_ends_before_mlflow_is_imported_waits_for_nothing(workspace, capfd):
    live = start_live("merge", load_params(), RUN_FILE)
    live.log(0, {"step_train_loss": 5.0})
    start = time.monotonic()
    live.close("FINISHED")
    assert time.monotonic() - start < 1
    assert capfd.readouterr().err == ""
    assert runs() == []


def test_figures_from_before_the_receiver_starts_arrive_when_it_does(workspace):
    live = start_live("merge", load_params(), RUN_FILE, after=0.5)
    for step in range(3):
        live.log(step, {"step_train_loss": 5.0 - step})
    assert live._receiver is None
    time.sleep(0.5)
    live.log(3, {"step_train_loss": 2.0})
    assert connected(live)
    live.close("FINISHED")
    (run,) = runs()
    assert history_of(run, "curves/step_train_loss") == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]
    first, *_, last = open_store().client.get_metric_history(
        run.info.run_id, "curves/step_train_loss"
    )
    assert 500 <= last.timestamp - first.timestamp < 2000


def test_a_short_training_starts_no_receiver(workspace):
    live = start_live("merge", load_params(), RUN_FILE, after=400)
    live.log(0, {"step_train_loss": 5.0})
    live.close("FINISHED")
    live.log(1, {"step_train_loss": 5.0})
    assert live._receiver is None
    assert runs() == []


def test_on_a_cpu_curves_wait_until_the_receiver_is_two_percent_unless_told_otherwise(monkeypatch):
    assert (delay("cpu"), delay("cuda")) == (400, 0)
    monkeypatch.setenv("CAPTIONLAB_LIVE_SECONDS", "5")
    assert (delay("cpu"), delay("cuda")) == (5, 5)
    monkeypatch.setenv("CAPTIONLAB_LIVE_SECONDS", "soon")
    with pytest.raises(
        UserError, match="CAPTIONLAB_LIVE_SECONDS=soon: expected a number of seconds"
    ):
        delay("cpu")


def test_a_receiver_that_is_gone_is_no_error(workspace):
    live = start_live("merge", load_params(), RUN_FILE)
    live._receiver.kill()
    live._receiver.wait()
    live.log(0, {"step_train_loss": 5.0})
    live.close("FAILED")


def test_a_receiver_that_hangs_never_blocks_training(workspace):
    live = start_live("merge", load_params(), RUN_FILE)
    os.kill(live._receiver.pid, signal.SIGSTOP)
    start = time.monotonic()
    for step in range(5000):  # Several times the capacity of a pipe.
        live.log(step, {"step_train_loss": 5.0})
    assert time.monotonic() - start < 2
    live._receiver.kill()
    live._receiver.wait()


def test_lines_that_arrive_in_pieces_are_put_together():
    reader, writer = os.pipe()
    os.write(writer, b'{"step": 1}\n{"st')
    received = messages(reader)
    assert next(received) == [{"step": 1}]
    os.write(writer, b'ep": 2}\n')
    os.close(writer)
    assert list(received) == [[{"step": 2}]]
    os.close(reader)


def test_lines_longer_than_a_pipe_holds_arrive_whole_and_hold_nobody_up(monkeypatch):
    """A pipe holds 64 KiB. A line of 200 kB goes through in pieces, one after each read."""
    monkeypatch.setattr("pipeline.tracking.live._put_behind", lambda process: None)
    monkeypatch.setattr("pipeline.tracking.receiver.PAUSE", 0)
    (reader, writer), (said, says) = os.pipe(), os.pipe()
    stdin, stdout = os.fdopen(writer, "wb", 0), os.fdopen(said, "rb", 0)
    receiver = SimpleNamespace(pid=0, stdin=stdin, stdout=stdout, wait=lambda seconds: None)
    live = Live(lambda: receiver, {"variant": "merge"})
    reports = [{f"train_{n}": step / 3 for n in range(8_000)} for step in (1, 2)]
    start = time.monotonic()
    for step, values in enumerate(reports):
        live.log(step, values)
    assert time.monotonic() - start < 5
    os.write(says, b"c")
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(lambda: [message for batch in messages(reader) for message in batch])
        live.close("FINISHED")
    header, *figures, end = received.result()
    assert (header, end) == ({"variant": "merge"}, DONE)
    assert [(message["step"], message["values"]) for message in figures] == list(enumerate(reports))
    os.close(reader)
    os.close(says)


def test_a_line_that_the_end_of_the_input_tears_is_left_out(monkeypatch):
    monkeypatch.setattr("pipeline.tracking.receiver.PAUSE", 0)
    reader, writer = os.pipe()
    os.write(writer, b'{"step": 1}\n{"st')
    os.close(writer)
    assert list(messages(reader)) == [[{"step": 1}]]
    os.close(reader)


def test_params_are_the_variants_own_after_overrides(workspace):
    params = load_params()
    variant = params.variants["merge"].model_copy(
        update={"train": {"lr": 0.5}, "decode": {"beam": 7}}
    )
    params = params.model_copy(update={"variants": {"merge": variant}})
    flat = flat_params("merge", params)
    shown = [flat[name] for name in ("train.lr", "decode.beam", "corpus.lower", "train.schedule")]
    assert shown == ["0.5", "7", "true", "cosine"]
    assert tags("merge", params)["protocol"] == (
        "scenes, split official; PTB tokens on both sides; beam 7, length penalty 0.7, at "
        "most 30 tokens"
    )
    variant = variant.model_copy(update={"decode": {"samples": 5}})
    assert tags("merge", params.model_copy(update={"variants": {"merge": variant}}))[
        "protocol"
    ].endswith("; best of 5 samples, temperature 1 among all words, seed 1, at most 30 tokens")


def test_without_dvc_lock_one_line_says_what_to_run(workspace):
    Path("dvc.lock").unlink()
    with pytest.raises(UserError, match=r"there is no dvc\.lock.*: run dvc repro track@merge$"):
        track.main("merge")
    assert not Path("data/runs").exists()


def test_a_stage_that_dvc_lock_lacks_is_named(workspace):
    with pytest.raises(
        UserError,
        match=r"^dvc\.lock has no train@soft-attention: run dvc repro track@soft-attention$",
    ):
        lock_entries(Path("dvc.lock"), "soft-attention")


def test_a_merge_conflict_in_dvc_lock_is_one_line(workspace):
    Path("dvc.lock").write_text("<<<<<<< HEAD\nstages: {\n")
    with pytest.raises(UserError, match=r"^dvc\.lock is not valid YAML \(a merge conflict\?\)"):
        track.main("merge")


def test_a_file_that_is_not_what_dvc_lock_says_is_refused(workspace):
    Path("data/history/merge.csv").write_text("epoch,step\n1,10\n")
    with pytest.raises(
        UserError,
        match=r"^data/history/merge\.csv is not what dvc\.lock says: run dvc repro track@merge$",
    ):
        track.main("merge")


def test_the_fingerprint_follows_every_change_of_dvc_lock(workspace):
    before = gather("merge", load_params(), paths).fingerprint
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace("md5: '1'", "md5: '2'"))  # The code of train changed.
    assert gather("merge", load_params(), paths).fingerprint != before
    Path("dvc.lock").write_text(lock)
    assert gather("merge", load_params(), paths).fingerprint == before


def test_the_hash_of_a_folder_is_dvcs(tmp_path):
    for name, text in (("b.txt", "a"), ("a.txt", "b"), ("sub/c.txt", "c"), ("é x.txt", "é")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert dvc_md5(tmp_path) == "7a174e04134dc8ef2854c0d48ed71ff5.dir"  # As computed by DVC 3.67.


def test_a_commit_is_dirty_when_code_differs_but_not_when_dvc_lock_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git_commit([]) == "none"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for name in ("dvc.lock", "code.py"):
        Path(name).write_text("1")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], check=True)
    clean = git_commit([Path("dvc.lock")])
    assert len(clean) == 40
    Path("dvc.lock").write_text("2")
    assert git_commit([Path("dvc.lock")]) == clean
    Path("code.py").write_text("2")
    assert git_commit([Path("dvc.lock")]) == f"{clean}-dirty"


@pytest.mark.parametrize("key", ["args", "corpus", "features"])
def test_a_variant_is_not_published_under_params_edited_since(workspace, key):
    assert gather("merge", load_params(), paths).params["train.lr"]
    file = Path("params.yaml")
    edited = yaml.safe_load(file.read_text())
    for section, name in (("corpora", "scenes"), ("features", "scenes-lite0")):
        edited[section]["other"] = edited[section][name]
    edited["variants"]["merge"][key] = "other" if key != "args" else {"embedding": 99}
    file.write_text(yaml.safe_dump(edited))
    with pytest.raises(
        UserError,
        match=rf"^variants\.merge\.{key} in params\.yaml has changed since merge was made: run dvc "
        r"repro track@merge$",
    ):
        gather("merge", load_params(), paths)


def test_a_variant_that_was_not_trained_has_scores_and_no_curves_and_may_be_the_best(workspace):
    Path("data/history/merge.csv").write_text("epoch,step,train_loss,val_cider\n")
    lock_variant(workspace, "merge")
    track.main("merge")
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == {
        f"{split}/{name}" for split in ("val", "test") for name in SCORES["merge"][split]
    }
    assert history_of(run, "val/cider") == [(0, 0.6)]
    assert register(open_store(), None, "cider", {}).ranking[0].variant == "merge"
