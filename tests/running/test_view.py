"""The display of a run, and how a run tells whether a job succeeded."""

from io import StringIO

import pytest
from rich.console import Console

from captionlab.running.outcome import Outcome, last_error, outcome_of
from captionlab.running.view import View


def test_a_terminal_shows_each_running_stage_with_its_last_line() -> None:
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=60, color_system=None)
    with View(5, console) as view:
        view.started("train@merge")
        view.started("train@lstm")
        logs = {"train@merge": "epoch 1:  10%\repoch 1:  50%|##", "train@lstm": "\x1b[2Jresuming\n"}
        view.show(logs)
        shown = [line.rstrip() for line in file.getvalue().split("\n")]
        view.ended(Outcome("train@merge", "done"))
        view.ended(Outcome("train@lstm", "failed", "no [bold] disk"))
    assert any(line.endswith("train@merge  0:00  epoch 1:  50%|##") for line in shown)
    assert any(line.endswith(r"train@lstm   0:00  \x1b[2Jresuming") for line in shown)
    assert any(line.split() == ["done", "0", "of", "5", "stages"] for line in shown)
    after = file.getvalue()
    assert "train@merge: done (0:00; 1 of 5 done)" in after
    assert "train@lstm: failed, no [bold] disk (0:00; 1 of 5 done)" in after


def test_a_file_gets_a_line_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    with View(2) as view:
        view.started("train@merge")
        view.show({"train@merge": "epoch 1"})
        view.again(Outcome("train@merge", "died", "its process was killed (status -9)"))
        view.started("train@merge")
        view.ended(Outcome("train@merge", "done"))
    assert capsys.readouterr().out.splitlines() == [
        "train@merge: started",
        "train@merge: its process was killed (status -9): it is tried again",
        "train@merge: started",
        "train@merge: done (0:00; 1 of 2 done)",
    ]


FAILED = (
    "ERROR: failed to reproduce 'train@a': failed to run: python -m stages.train a, exited with "
)


@pytest.mark.parametrize(
    ("status", "log", "state", "said"),
    [
        (0, "", "done", ""),
        (255, f"error: lr is 0\n{FAILED}2\n", "failed", "lr is 0"),
        (255, f"Traceback\nKeyError: 'x'\n{FAILED}1\n", "failed", "KeyError: 'x'"),
        (255, f"{FAILED}1\n", "failed", f"{FAILED.removeprefix('ERROR: ')}1"),
        (255, f"{FAILED}-9\n", "died", "its process was killed (status -9)"),
        (255, f"Killed\n{FAILED}137\n", "died", "its process was killed (status 137)"),
        (-9, "epoch 1", "died", "its process was killed (status -9)"),
        (255, "ERROR: Unable to acquire lock. Most likely another DVC", "died",
         "DVC's lock was held"),
        (255, "ERROR: './dvc.lock' validation failed.\n", "failed",
         "'./dvc.lock' validation failed."),
        (1, "", "failed", "it said nothing"),
    ],
)  # fmt: skip
def test_a_job_that_was_ended_from_outside_is_told_from_one_that_failed(
    status: int, log: str, state: str, said: str
) -> None:
    assert outcome_of("train@a", status, log) == Outcome("train@a", state, said)  # type: ignore[arg-type]


def test_an_error_line_comes_from_the_stage_and_cannot_steer_a_terminal() -> None:
    log = "error: first\nepoch 1\rerror: a\x1b[2J file is broken\nERROR: failed to reproduce\n"
    assert last_error(log) == r"a\x1b[2J file is broken"
