"""What commands say of the rows of the workspace that they do not show."""

from pathlib import Path
from typing import Any

import pytest

from captionlab.here import not_in_table, not_published, scored, the_dataset

PARAMS = "datasets: {scenes: {}, mine: {}}\nvariants: {a: {}, b: {}, c: {}}\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of three rows: a and b are scored, and a is in the table and in MLflow."""
    monkeypatch.chdir(tmp_path)
    files = {
        "params.yaml": PARAMS,
        "data/scores/a/scores.csv": "",
        "data/scores/b/scores.csv": "",
        "data/scores/old/scores.csv": "",
        "reports/runs/a/receipt.json": "{}",
        "reports/tables/all.csv": "corpus,variant\nscenes,a\nscenes,most frequent caption\n",
        "reports/tables/all.md": "# Results",
    }
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    return tmp_path


@pytest.mark.usefixtures("workspace")
def test_a_row_that_is_scored_and_not_in_the_table_or_in_mlflow_is_named() -> None:
    assert scored() == ["a", "b"]
    assert not_in_table() == not_published() == ["b"]


@pytest.mark.usefixtures("workspace")
def test_results_names_the_rows_that_its_table_lacks(captionlab: Any) -> None:
    status, out, _ = captionlab("results")
    assert status == 0
    assert "\nnot in this table: b (scored; dvc repro adds them)\n" in out
    Path("data/scores/b/scores.csv").unlink()
    assert "not in this table" not in captionlab("results")[1]


def test_the_data_set_is_the_one_asked_for_or_the_only_one_of_params(workspace: Path) -> None:
    assert the_dataset("x", ["scenes", "coco"]) == "x"
    assert the_dataset(None, ["coco", "scenes"]) == "scenes"
    assert the_dataset(None, ["mine", "scenes"]) is None
    assert the_dataset(None, ["coco"]) is None
    for damaged in ("", "[1]", "datasets: 3", "{", "\0"):
        Path("params.yaml").write_text(damaged)
        assert the_dataset(None, ["coco", "scenes"]) is None
    (workspace / "params.yaml").unlink()
    assert the_dataset(None, ["coco", "scenes"]) is None
