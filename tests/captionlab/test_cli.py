"""The command line as a person types it: its status, standard output, and the one line on standard
error."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.shards import Shards, write_picture
from pipeline.tracking.store import find_runs, open_store
from stages import track
from tests.tracking_workspace import (
    SCORES,
    lock_variant,
    make_captioner,
    make_variant,
    make_workspace,
    write_resamples,
)

IDS = [f"scene{n:02}" for n in range(30)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A workspace with two variants, both published to its mlflow.db."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        make_workspace(folder)
        write_picture(Shards(folder / "data/raw/scenes").find(["scene03"])["scene03"], folder)
        make_captioner(folder / "models/merge")
        lock_variant(folder, "merge")
        for variant in ("merge", "lstm"):
            track.main(variant)
    return folder


@pytest.fixture
def workspace(published, tmp_path, monkeypatch):
    """A copy of `published`. The files of the runs (mlruns) stay in the original."""
    shutil.copytree(
        published, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlruns")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def refusal(called):
    """Check that a call failed with status 2 and printed only one line, on standard error. Return
    that line."""
    status, out, err = called
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


def champion():
    return open_store().client.get_model_version_by_alias("captionlab-scenes", "champion")


def test_register_chooses_by_validation_though_another_is_better_on_test(workspace, captionlab):
    status, out, err = captionlab("register")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "variant                     val/cider       p     test/cider  corpus",
        "merge                          0.6000    best         0.4000  scenes",
        "lstm                           0.5000   0.000         0.7000  scenes",
        "captionlab-scenes version 1 (merge) registered and has the alias champion",
        "val/cider 0.6000 is the best of 2; its lead over lstm, 0.1000, is more than noise "
        "(p < 0.002, paired bootstrap over "
        "the validation images)",
    ]
    tags = champion().tags
    assert tags["variant"] == "merge"
    assert tags["val/cider"] == "0.6"
    assert tags["git.commit"] == "abc1234"  # of the row, as in the tables
    assert tags["dvc.data/corpora/scenes"] == "c0ffee.dir"
    assert champion().description == f"{out.splitlines()[-1]}.\n\n{tags['protocol']}"


def test_a_lead_that_other_validation_images_could_turn_is_within_noise(workspace, captionlab):
    write_resamples(Path(), "lstm", spread=0.2)
    lock_variant(Path(), "lstm")
    track.main("lstm")
    _, out, _ = captionlab("register")
    assert (
        "lstm                           0.5000   1.000         0.7000  scenes" in out.splitlines()
    )
    assert out.endswith("is within noise (p 1.000, paired bootstrap over the validation images)\n")


def test_runs_without_resamples_are_ranked_and_their_lead_is_not_judged(workspace, captionlab):
    for folder in (
        Path(run.info.artifact_uri.removeprefix("file://")) for run in find_runs(open_store(), "")
    ):
        shutil.move(folder / "scores", folder / "kept")
    try:
        _, out, _ = captionlab("register")
    finally:
        for folder in (
            Path(run.info.artifact_uri.removeprefix("file://"))
            for run in find_runs(open_store(), "")
        ):
            shutil.move(folder / "kept", folder / "scores")
    assert (
        "lstm                           0.5000     n/a         0.7000  scenes" in out.splitlines()
    )
    assert out.endswith(
        "its lead over lstm, 0.1000, is of unknown weight: the two cannot be paired\n"
    )


def test_runs_of_other_references_or_another_protocol_do_not_compare(workspace, captionlab):
    store = open_store()
    (lstm,) = find_runs(store, "tags.variant = 'lstm'")
    store.client.set_tag(lstm.info.run_id, "dvc.data/references/scenes", "dead")
    protocol = lstm.data.tags["protocol"]
    assert refusal(captionlab("register")) == (
        "error: these runs do not compare, name a variant with --like to choose among its "
        "own kind: "
        f"{protocol}; references dead (lstm); {protocol}; references beef.dir (merge)\n"
    )
    assert refusal(captionlab("register", "--like", "lmst")) == (
        "error: no finished run of a variant 'lmst' in MLflow (did you mean 'lstm'?): there are "
        "lstm, merge\n"
    )
    status, out, _ = captionlab("register", "--like", "lstm")
    assert status == 0
    assert (
        out.splitlines()[2]
        == "not compared (another protocol or other references; see --like): merge"
    )
    assert champion().tags["variant"] == "lstm"


def test_an_old_run_of_another_protocol_is_left_out_where_the_workspace_says_which_are_meant(
    workspace, captionlab
):
    store = open_store()
    tags = {
        "variant": "old",
        "dataset": "scenes",
        "corpus": "scenes",
        "fingerprint": "f",
        "protocol": "beam 99",
    }
    run_id = store.client.create_run(store.experiment, tags=tags).info.run_id
    store.client.log_metric(run_id, "val/cider", 9.0)
    store.client.set_terminated(run_id, "FINISHED")
    status, out, _ = captionlab("register")
    assert status == 0
    assert (
        "not compared (another protocol or other references; see --like): old" in out.splitlines()
    )
    assert champion().tags["variant"] == "merge"


def test_the_champion_before_is_kept_as_previous_and_a_rollback_changes_their_places(
    workspace, captionlab
):
    assert refusal(captionlab("register", "--rollback")).startswith(
        "error: no champion is registered: run captionlab register"
    )
    captionlab("register")
    assert refusal(captionlab("register", "--rollback")) == (
        "error: captionlab-scenes has no previous champion to go back to: version 1 is the "
        "only one\n"
    )
    _, out, _ = captionlab("register", "--metric", "loss")
    assert (
        "version 2 (lstm) registered and has the alias champion; version 1 is kept as previous"
        in out
    )
    captionlab("register", "--metric", "loss")  # The champion does not change, so previous stays.
    status, out, _ = captionlab("register", "--rollback")
    assert status == 0
    assert out.splitlines()[0] == (
        "captionlab-scenes: version 1 (merge) is champion again, version 2 is previous now;"
    )
    assert champion().tags["variant"] == "merge"
    captionlab("register", "--rollback")
    assert champion().tags["variant"] == "lstm"
    assert refusal(captionlab("register", "--rollback", "--metric", "loss")).startswith(
        "error: --rollback goes back"
    )


def test_register_needs_nothing_but_the_server(
    workspace, captionlab, monkeypatch, tmp_path_factory
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/mlflow.db")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    status, out, _ = captionlab("register")
    assert status == 0
    assert "is more than noise (p < 0.002" in out
    assert list(Path().iterdir()) == []


def test_a_loss_is_better_when_it_is_lower(workspace, captionlab):
    status, out, _ = captionlab("register", "--metric", "loss")
    assert status == 0
    assert "(lstm) registered" in out
    assert champion().tags["variant"] == "lstm"


def test_a_collapse_is_better_when_it_is_lower_and_nobody_is_chosen_by_a_vocabulary(
    workspace, captionlab
):
    status, out, _ = captionlab("register", "--metric", "collapse")
    assert status == 0
    assert "(lstm) registered" in out
    for metric in ("vocabulary", "gender_ratio"):
        assert refusal(captionlab("register", "--metric", metric)) == (
            f"error: of {metric} neither high nor low is better: choose by one of bleu_4, "
            "cider, collapse, loss\n"
        )


def test_an_unknown_metric_or_dataset_lists_those_there_are(workspace, captionlab):
    assert (
        refusal(captionlab("register", "--metric", "spice"))
        == "error: no run has the validation metric 'spice': there are bleu_4, cider, "
        "collapse, loss\n"
    )
    assert (
        refusal(captionlab("register", "--dataset", "coco"))
        == "error: no finished run of dataset 'coco' in MLflow: there are scenes\n"
    )


def test_runs_of_two_datasets_ask_for_one(workspace, captionlab):
    store = open_store()
    tags = {"variant": "other", "dataset": "flickr8k", "corpus": "flickr8k", "fingerprint": "f"}
    run_id = store.client.create_run(store.experiment, tags=tags).info.run_id
    store.client.set_terminated(run_id, "FINISHED")
    params = Path("params.yaml").read_text()
    Path("params.yaml").unlink()
    assert (
        refusal(captionlab("register"))
        == "error: there are runs of 2 datasets, name one with --dataset: flickr8k, scenes\n"
    )
    assert captionlab("register", "--dataset", "scenes")[0] == 0
    Path("params.yaml").write_text(params)  # which names scenes alone
    assert captionlab("register")[0] == 0


def test_a_variant_enters_with_the_run_of_this_workspace_not_with_a_newer_one(
    workspace, captionlab, monkeypatch
):
    state = [Path(name).read_bytes() for name in ("dvc.lock", "reports/runs/merge/receipt.json")]
    monkeypatch.setitem(SCORES, "merge", {"val": {"cider": 0.1}, "test": {"cider": 0.1}})
    make_variant(workspace, "merge", IDS, cider=(0.0, 0.0, 0.1))
    track.main("merge")
    assert "lstm" in captionlab("register")[1].splitlines()[1]
    for name, content in zip(("dvc.lock", "reports/runs/merge/receipt.json"), state, strict=True):
        Path(name).write_bytes(content)
    assert (
        captionlab("register")[1]
        .splitlines()[1]
        .startswith("merge                          0.6000")
    )


def test_register_before_anything_is_published_says_what_to_run(tmp_path, monkeypatch, captionlab):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (
        refusal(captionlab("register"))
        == f"error: there is no MLflow store {tmp_path}/mlflow.db: run this in a workspace "
        "after dvc repro, or set "
        "MLFLOW_TRACKING_URI\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_champion_captions_images_and_a_broken_one_is_set_aside(workspace, captionlab):
    captionlab("register")
    Path("broken.jpg").write_bytes(b"no picture")
    image = "scene03.png"
    status, out, err = captionlab("caption", image, "broken.jpg", image)
    assert (status, err) == (2, "error: broken.jpg: not a picture\n")
    first, second = (line.split("\t") for line in out.splitlines())
    assert first == second
    assert first[0] == image
    assert set(first[1].split()) <= {"a", "red", "dog", "runs"}
    assert float(first[2]) < 0


def test_a_variant_and_its_folder_caption_alike_as_params_say_and_greedily_with_beam_1(
    workspace, captionlab
):
    image = "scene03.png"
    name = captionlab("caption", image, "--model", "merge")
    folder = captionlab("caption", image, "--model", "models/merge")
    assert name == folder
    assert name[0] == 0
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("max_tokens: 30", "max_tokens: 2"))
    assert len(captionlab("caption", image, "--model", "merge")[1].split("\t")[1].split()) <= 2
    assert captionlab("caption", image, "--model", "merge", "--beam", "1")[0] == 0


def test_the_best_of_drawn_captions_is_printed_the_same_one_each_time(workspace, captionlab):
    call = ("caption", "scene03.png", "--model", "merge", "--samples")
    one, again, five = (captionlab(*call, count) for count in (1, 1, 5))
    assert one == again
    assert (one[0], five[0]) == (0, 0)
    assert float(five[1].split("\t")[2]) > float(one[1].split("\t")[2])
    assert refusal(captionlab(*call, 5, "--beam", 2)) == (
        "error: beam and samples exclude each other: give only one\n"
    )


def test_the_number_of_an_option_is_asked_for_in_plain_words(captionlab):
    for given, told in (
        ("x", "expected a whole number, found 'x'"),
        ("0", "expected at least 1, found '0'"),
        ("70000", "expected at most 65535, found '70000'"),
    ):
        assert captionlab("app", "--port", given) == (
            2,
            "",
            f"error: Invalid value for '--port': {told} (captionlab app --help)\n",
        )


def test_an_unknown_model_lists_those_there_are(workspace, captionlab):
    assert (
        refusal(captionlab("caption", "x.png", "--model", "resnet"))
        == "error: unknown model 'resnet': there are champion, lstm, merge, or name a model "
        "folder\n"
    )


def test_the_champion_is_this_workspaces_though_the_process_has_another_address(
    workspace, captionlab, tmp_path, monkeypatch
):
    captionlab("register")
    image = "scene03.png"
    expected = captionlab("caption", image)
    monkeypatch.setattr(
        "mlflow.tracking._tracking_service.utils._tracking_uri", f"sqlite:///{tmp_path}/other.db"
    )
    assert captionlab("caption", image) == expected
    assert expected[0] == 0


def test_without_a_champion_one_line_says_what_to_run(workspace, captionlab):
    assert (
        refusal(captionlab("caption", "x.png"))
        == "error: no champion is registered: run captionlab register, or name a variant or a "
        "folder with --model\n"
    )


def test_sync_publishes_what_is_complete_and_says_what_is_not(workspace, captionlab):
    Path("mlflow.db").unlink()
    Path("data/runs/merge.pending").touch()
    status, out, err = captionlab("sync")
    assert (status, err) == (0, "")
    missing = "dvc.lock has no train@soft-attention: run dvc repro track@soft-attention"
    assert out.splitlines() == [
        "merge: published",
        "lstm: published",
        f"soft-attention: left out: {missing}",
    ]
    assert not Path("data/runs/merge.pending").exists()
    assert captionlab("sync")[1].splitlines()[:2] == [
        "merge: was published already",
        "lstm: was published already",
    ]


def test_sync_with_a_dead_server_is_one_line_and_loses_nothing(workspace, captionlab, monkeypatch):
    Path("data/runs/merge.pending").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert refusal(captionlab("sync")).startswith(
        "error: MLflow at http://127.0.0.1:9 is out of reach ("
    )
    assert Path("data/runs/merge.pending").exists()


def test_quiet_sync_names_only_what_changed_and_lets_a_build_go_on_without_a_server(
    workspace, captionlab, monkeypatch
):
    status, out, err = captionlab("sync", "--quiet")
    assert (status, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == ["soft-attention"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    status, out, err = captionlab("sync", "--quiet")
    assert (status, out) == (0, "")
    assert err.startswith("warning: MLflow at http://127.0.0.1:9 is out of reach (")


def test_results_show_the_table_the_page_and_how_to_open_mlflow(tmp_path, monkeypatch, captionlab):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("params.yaml").touch()
    opening = "MLflow: captionlab ui\n"
    assert captionlab("results") == (
        0,
        f"no table yet (reports/tables/all.md): run dvc repro\n{opening}",
        "",
    )
    Path("reports/tables").mkdir(parents=True)
    Path("reports/tables/all.md").write_text("| a |\n")
    Path("reports/index.html").touch()
    assert captionlab("results") == (
        0,
        f"| a |\n\npage:   {tmp_path / 'reports/index.html'}\n{opening}",
        "",
    )


def test_results_and_register_outside_a_workspace_are_one_line_and_leave_nothing(
    tmp_path, monkeypatch, captionlab
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert refusal(captionlab("results")).startswith(
        "error: this folder is not a workspace (it has no params.yaml)"
    )
    assert refusal(captionlab("register")).startswith(
        f"error: there is no MLflow store {tmp_path}/mlflow.db"
    )
    assert refusal(captionlab("caption", "x.png")).startswith(
        f"error: there is no MLflow store {tmp_path}/mlflow.db"
    )
    assert refusal(captionlab("sync")).startswith("error: ")
    assert refusal(captionlab("sync", "--to", "sqlite:///other.db")).startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_sync_to_another_store_fills_it_and_leaves_what_waits_for_the_own_one(
    workspace, captionlab
):
    Path("data/runs/merge.pending").touch()
    status, out, err = captionlab("sync", "--to", "sqlite:///shared/other.db")
    assert (status, err) == (0, "")
    assert out.splitlines()[:2] == ["merge: published", "lstm: published"]
    assert Path("data/runs/merge.pending").exists()
    there = find_runs(open_store("sqlite:///shared/other.db"), "attributes.status = 'FINISHED'")
    here = find_runs(open_store(), "attributes.status = 'FINISHED'")
    assert {run.data.tags["fingerprint"]: run.data.metrics for run in there} == {
        run.data.tags["fingerprint"]: run.data.metrics for run in here
    }
    assert (
        captionlab("sync", "--to", "sqlite:///shared/other.db")[1].splitlines()[0]
        == "merge: was published already"
    )


@pytest.mark.parametrize(
    "address", ["shared", "sqlite://other.db", "http//host", "postgresql://me:secret@/runs"]
)
def test_sync_to_nonsense_is_one_line_without_a_password(workspace, captionlab, address):
    before = sorted(workspace.rglob("*"))
    line = refusal(captionlab("sync", "--to", address))
    assert (
        "is not the address of an MLflow store: use http://HOST:PORT, https://HOST, sqlite:///FILE, or"
        in line
    )
    assert "secret" not in line
    assert sorted(workspace.rglob("*")) == before


def test_a_misspelt_option_is_one_line(captionlab):
    assert refusal(captionlab("register", "--metrik", "cider")).startswith(
        "error: No such option: --metrik "
    )
    assert (
        refusal(captionlab("caption"))
        == "error: Missing argument 'IMAGE...'. (captionlab caption --help)\n"
    )


def test_importing_the_command_line_imports_nothing_heavy():
    code = (
        "import sys, captionlab.__main__; print(sorted({'mlflow', 'torch', 'pandas', "
        "'pydantic', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
