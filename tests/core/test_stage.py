"""How a stage starts and ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from pipeline.core import stage
from pipeline.core.errors import UserError
from tests.workspace import environment, make_workspace, run, tool


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("killed"))


def stages_in(folder: Path) -> list[psutil.Process]:
    """Return the processes that run a stage of this workspace, including the shells around them."""
    found = []
    for process in psutil.process_iter():
        try:
            line, place = " ".join(process.cmdline()), process.cwd()
        except psutil.Error:
            continue
        if "-m stages." in line and place == str(folder):
            found.append(process)
    return found


def until(happened, seconds: float = 20.0) -> bool:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        time.sleep(0.005)
    return False


def test_an_interruption_that_a_library_makes_another_error_of_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("Invalid affine transformation matrix") from None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "_interrupted", stage.threading.Event())
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        with pytest.raises(SystemExit) as end:
            stage.stage(main, named=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("error: interrupted")


@pytest.mark.parametrize("later", [0.0, 0.02, 0.1, 0.4])
def test_a_stage_ends_with_its_dvc_however_early_that_is_killed(
    workspace: Path, later: float
) -> None:
    dvc = subprocess.Popen(
        [tool("dvc"), "repro", "-f", "download@scenes"],
        cwd=workspace,
        env=environment(workspace),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert until(lambda: stages_in(workspace))
    time.sleep(later)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    assert until(lambda: not stages_in(workspace))


def test_a_stage_that_an_orphan_would_run_never_begins(workspace: Path) -> None:
    """.dvc/tmp/rwlock names the stage's dvc, which is not among its parent processes."""
    held = {"write": {str(workspace / "x"): {"pid": 2**22 - 1, "cmd": "dvc repro"}}, "read": {}}
    (workspace / ".dvc/tmp/rwlock").write_text(json.dumps(held))
    code = "import stages; print('begun')"
    done = run(
        workspace,
        sys.executable,
        "-c",
        code,
        check=False,
        DVC_STAGE="train@x",
        DVC_ROOT=str(workspace),
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


def test_two_processes_never_write_the_outputs_of_one_stage(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(stage, "PATIENCE", 0.1)
    with FileLock(".dvc/tmp/captionlab-train@merge.lock"):
        refused = pytest.raises(UserError, match="another process is running train@merge here")
        with refused, stage.only_writer("train@merge"):
            raise AssertionError("two writers")
        with stage.only_writer("train@lstm"):
            pass
    with stage.only_writer("train@merge"):
        pass


def test_what_a_stage_has_started_ends_with_it(workspace: Path) -> None:
    """METEOR's Java is an example. Otherwise it would live on until it had read its input."""
    code = f"""
import os, subprocess, sys
os.environ |= {{"DVC_STAGE": "score@x", "DVC_ROOT": {str(workspace)!r}}}
(child := subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
print(child.pid, flush=True)
import stages
"""
    held = {"write": {"x": {"pid": 2**22 - 1, "cmd": "dvc repro"}}, "read": {}}
    (workspace / ".dvc/tmp/rwlock").write_text(json.dumps(held))
    done = run(workspace, sys.executable, "-c", code, check=False)
    assert done.returncode == -signal.SIGKILL
    assert until(lambda: not psutil.pid_exists(int(done.stdout)), 5)
