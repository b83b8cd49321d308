"""Leftovers of killed stages are removed where the outputs exist again, and nowhere else."""

from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.core.leftovers import sweep, to_resume

FOLDERS = [Path("data"), Path("models"), Path("reports")]
STALE = ("models/.lstm.part/x", "data/history/.lstm.csv.part", "data/.report.part/x")
KEPT = (
    "models/.merge.part/x",  # There is no models/merge, so its stage will run.
    "data/features/.lite0.part/progress.json",
    "checkpoints/lstm/checkpoint.pt",
)
THERE = ("models/lstm/x", "data/history/lstm.csv", "data/report/x", "data/features/lite0/x")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (*STALE, *KEPT, *THERE, ".dvc/tmp/captionlab-train@lstm.lock"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


@pytest.mark.usefixtures("workspace")
def test_parts_beside_restored_outputs_go_and_what_can_be_resumed_stays() -> None:
    sweep(FOLDERS)
    assert [name for name in STALE if Path(name).exists()] == []
    assert [name for name in (*KEPT, *THERE) if not Path(name).exists()] == []
    assert to_resume(FOLDERS, Path("checkpoints"), Path("models")) == [
        Path("data/features/.lite0.part"),
        Path("checkpoints/lstm/checkpoint.pt"),
    ]


@pytest.mark.usefixtures("workspace")
def test_nothing_goes_while_another_stage_runs() -> None:
    with FileLock(".dvc/tmp/captionlab-train@lstm.lock"):
        sweep(FOLDERS)
    assert [name for name in STALE if not Path(name).exists()] == []
