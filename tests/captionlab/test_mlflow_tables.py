"""`captionlab tables --from-mlflow` writes the same bytes as the workspace's own tables, whatever
else the server holds."""

import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.core import paths
from pipeline.data.checked import read_json
from pipeline.experiment.params import load_params
from pipeline.report.latex import write_tables
from pipeline.report.paper_tables import paper_sheets, read_papers
from pipeline.report.results_table import everything
from pipeline.results.result import results_of, setting
from pipeline.tracking import fill
from pipeline.tracking.current import PREFIX
from pipeline.tracking.payload import ROWS
from pipeline.tracking.store import find_runs, open_store
from stages import track
from tests.faults import full_disk
from tests.tracking_workspace import SCORES, lock_variant, make_scores, make_workspace


@pytest.fixture
def enter(tmp_path, monkeypatch, database):
    """A function that changes into the workspace of this name and sets test CIDEr scores.

    All workspaces publish to one store. Models are not logged, for speed.
    """
    shutil.copy(database, tmp_path / "server.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/server.db")
    monkeypatch.setattr(fill, "_log_model", lambda *arguments: None)

    def call(name="one", **cider):
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir(parents=True)
            monkeypatch.chdir(folder)
            make_workspace(folder)
            edit_params(lambda params: params["variants"].pop("soft-attention"))
        monkeypatch.chdir(folder)
        for variant, score in cider.items():
            rescore(variant, score)

    return call


def edit_params(change):
    params = yaml.safe_load(Path("params.yaml").read_text())
    change(params)
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def rescore(variant, cider):
    """Make the variant look as if it had been trained with other params and had reached this test
    CIDEr."""
    scores = {**SCORES[variant], "test": {**SCORES[variant]["test"], "cider": cider}}
    make_scores(Path(), variant, scores)
    lock_variant(Path(), variant)


def own_tables():
    """Return the tables that the stage `compare` writes in this workspace."""
    params = load_params()
    captions = {
        name: pd.read_parquet(paths.CORPORA / name / "captions.parquet") for name in params.corpora
    }
    references = {name: read_json(paths.references(name)) for name in params.corpora}
    settings = {
        name: setting(name, c.split, captions[name], references[name])
        for name, c in params.corpora.items()
    }
    results = results_of(params, settings, paths.SCORES)
    write_tables(
        Path("own"),
        [everything(results, params.scoring.metrics), *paper_sheets(read_papers(), results)],
    )
    return contents("own")


def contents(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@pytest.fixture
def tables(captionlab):
    """A function that runs the command. It returns the files by name, and the one line on standard
    error or ''."""

    def call(*arguments):
        status, _, err = captionlab("tables", "--from-mlflow", "--to", "again", *arguments)
        assert status == 0, err
        return contents("again"), err

    return call


def runs(condition=""):
    return find_runs(open_store(), condition)


def publish_all():
    for variant in load_params().variants:
        track.main(variant)


def held(run):
    """Return everything that a run holds, except for the workspaces in which it is current."""
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith(PREFIX)}
    files = {
        path: path.stat().st_mtime_ns
        for path in Path(run.info.artifact_uri.removeprefix("file://")).rglob("*")
    }
    return (
        tags,
        run.data.params,
        run.data.metrics,
        run.info.start_time,
        run.info.end_time,
        run.info.status,
        files,
    )


def test_a_parameter_that_was_changed_and_changed_back_shows_the_first_run_again_which_stays_as_it_was(
    enter, tables
):
    enter(merge=0.11)
    publish_all()
    (first,) = runs("tags.variant = 'merge'")
    rescore("merge", 0.99)
    track.main("merge")
    assert tables() == (own_tables(), "")
    rescore("merge", 0.11)
    assert b"0.99" in tables()[0]["all.csv"]
    track.main("merge")
    assert tables() == (own_tables(), "")
    assert b"0.11" in tables()[0]["all.csv"]
    assert len(runs("attributes.status = 'FINISHED'")) == 3
    (again,) = [run for run in runs() if run.info.run_id == first.info.run_id]
    assert held(again) == held(first)
    assert sum(name.startswith(PREFIX) for name in again.data.tags) == 1


def test_what_dvc_restored_without_its_stage_is_current_after_a_quiet_sync(
    enter, tables, captionlab
):
    enter(merge=0.11)
    publish_all()
    rescore("merge", 0.99)
    track.main("merge")
    rescore("merge", 0.11)
    assert captionlab("sync", "--quiet") == (0, "", "")
    assert tables() == (own_tables(), "")


def test_a_row_that_params_have_no_more_is_in_no_table_until_it_comes_back(
    enter, tables, captionlab
):
    enter()
    publish_all()
    whole, text = own_tables(), Path("params.yaml").read_text()
    edit_params(lambda params: params["variants"].pop("lstm"))
    assert captionlab("sync", "--quiet") == (0, "", "")
    assert tables() == (own_tables(), "")
    assert b"lstm" not in tables()[0]["all.csv"]
    Path("params.yaml").write_text(text)
    captionlab("sync", "--quiet")
    assert tables() == (whole, "")


def test_of_several_workspaces_the_tables_are_those_of_the_one_that_published_last_or_is_named(
    enter, tables, captionlab
):
    """Both workspaces have the same variants, but in `two` merge uses another corpus. Both share
    the one run of lstm."""
    enter("one", merge=0.11)
    publish_all()
    one, first = own_tables(), runs()[0].data.tags["workspace"]
    enter("two")
    shutil.copytree("data/corpora/scenes", "data/corpora/other")
    shutil.copytree("data/references/scenes", "data/references/other")
    make_scores(Path(), "most-frequent--other", {"val": {"cider": 0.1}, "test": {"cider": 0.07}})

    def other_corpus(params):
        params["corpora"]["other"] = params["corpora"]["scenes"]
        params["variants"]["merge"]["corpus"] = "other"

    edit_params(other_corpus)
    rescore("merge", 0.22)
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    for stage in ("train", "caption", "score"):
        deps = lock["stages"][f"{stage}@merge"]["deps"]
        lock["stages"][f"{stage}@merge"]["deps"] = [
            {**d, "path": d["path"].replace("corpora/scenes", "corpora/other")} for d in deps
        ]
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    publish_all()
    assert len(runs()) == 3
    two, err = tables()
    assert two == own_tables()
    assert b"other," in two["all.csv"]
    second = first.removesuffix("one") + "two"
    assert err.startswith(f"tables of {second}, which was published at 20")
    assert err.endswith(f"Z; --workspace names another: {first}\n")
    assert tables("--workspace", first)[0] == one
    enter("one")
    captionlab("sync", "--quiet")
    assert tables()[0] == one
    status, _, err = captionlab("tables", "--from-mlflow", "--workspace", "x:/y")
    assert status == 2
    assert err.startswith("error: no workspace 'x:/y' (--workspace) has published to sqlite:///")
    assert err.endswith(f": there are {first}, {second}\n")


def test_of_runs_that_an_earlier_version_published_the_newest_are_shown_until_one_is_confirmed(
    enter, tables
):
    enter(merge=0.11)
    publish_all()
    old = own_tables()
    rescore("merge", 0.99)
    track.main("merge")
    store = open_store()
    for run in runs():
        for name in [name for name in run.data.tags if name.startswith(PREFIX)]:
            store.client.delete_tag(run.info.run_id, name)
    assert tables() == (own_tables(), "")
    rescore("merge", 0.11)
    publish_all()
    assert tables() == (old, "")


def test_who_confirmed_a_duplicate_that_is_dropped_holds_the_run_that_stays(enter):
    enter()
    track.main("merge")
    store, (kept,) = open_store(), runs()
    confirmed = {**kept.data.tags, f"{PREFIX}f00": "2026-11-21T00:00:00.000000Z far:/away"}
    twin = store.client.create_run(store.experiment, tags=confirmed)
    store.client.set_terminated(twin.info.run_id, "FINISHED")
    track.main("merge")
    (left,) = runs()
    assert left.info.run_id == kept.info.run_id
    assert left.data.tags[f"{PREFIX}f00"] == "2026-11-21T00:00:00.000000Z far:/away"


def test_an_experiment_in_a_temporary_copy_publishes_to_its_workspace_and_changes_no_table(
    enter, tables, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    enter()
    shutil.copy(tmp_path / "server.db", "mlflow.db")
    publish_all()
    enter("one/.dvc/tmp/exps/standalone/tmp1", merge=0.99)
    monkeypatch.setenv("DVC_EXP_NAME", "numb-sort")
    track.main("merge")
    assert not Path("mlflow.db").exists()
    enter()
    assert tables() == (own_tables(), "")
    found = {run.data.metrics["test/cider"]: run.data.tags for run in runs() if of_merge(run)}
    assert sorted(found) == [0.4, 0.99]
    assert found[0.99]["experiment"] == "numb-sort"
    rescore("merge", 0.99)  # This is what `dvc exp apply` does.
    publish_all()
    assert tables() == (own_tables(), "")
    assert len(runs()) == 3


def test_an_experiment_that_finds_no_server_says_to_apply_it_first(
    enter, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("DVC_EXP_NAME", "numb-sort")
    enter("one/.dvc/tmp/exps/tmp1")
    track.main("merge")
    then = "dvc exp apply numb-sort brings them here, then captionlab sync publishes it later"
    assert capfd.readouterr().err.endswith(f": 'merge' is kept in files, {then}\n")


def of_merge(run):
    return run.data.tags["variant"] == "merge"


def test_runs_without_lines_of_tables_are_no_results(enter, captionlab):
    enter()
    told = "no finished run of sqlite:///"
    assert captionlab("tables", "--from-mlflow")[2].startswith(f"error: {told}")
    track.main("merge")
    (run,) = runs()
    (Path(run.info.artifact_uri.removeprefix("file://")) / "table_rows.json").unlink()
    status, _, err = captionlab("tables", "--from-mlflow")
    assert status == 2
    assert err.endswith(" holds results: publish them with captionlab sync\n")
    assert not Path("tables").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda told: [],
        lambda told: told | {"requested": None},
        lambda told: told | {"rows": [{**told["rows"][0], "setting": {}}]},
        lambda told: told | {"rows": [{**told["rows"][0], "scores": [{"value": "high"}]}]},
        lambda told: told | {"rows": [{**told["rows"][0], "surprise": 1}]},
    ],
)
def test_a_line_of_the_tables_that_is_damaged_on_the_server_is_one_line_that_names_its_run(
    enter, captionlab, change
):
    enter(merge=0.11)
    track.main("merge")
    (run,) = runs("tags.variant = 'merge'")
    file = Path(run.info.artifact_uri.removeprefix("file://")) / ROWS
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    status, out, err = captionlab("tables", "--from-mlflow", "--to", "again")
    assert (status, out, err.count("\n")) == (2, "", 1)
    workspace = run.data.tags["workspace"]
    cure = f": delete run {run.info.run_id}, then captionlab sync in {workspace}\n"
    assert err.endswith(cure)
    assert not Path("again").exists()


def test_a_full_folder_of_temporary_files_is_one_line_that_names_it(
    enter, captionlab, tmp_path, monkeypatch
):
    enter(merge=0.11)
    track.main("merge")
    with full_disk(tmp_path / "full") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        status, out, err = captionlab("tables", "--from-mlflow", "--to", "again")
        assert [path.name for path in disk.iterdir()] == ["filled"]
    assert (status, out, err.count("\n")) == (2, "", 1)
    told = f"error: the disk is full while files of MLflow are fetched into {disk}/"
    assert err.startswith(told)
    assert err.endswith(": free some space there, or let TMPDIR name a folder that has some\n")
    assert not Path("again").exists()
