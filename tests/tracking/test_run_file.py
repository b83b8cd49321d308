"""The file that records a training's run. A damaged file names no run."""

from pathlib import Path

import pytest

from pipeline.tracking.run_file import RunFile, read_run_file, write_run_file

RUN = RunFile(tracking_uri="http://mlflow.example.org", run_id="4f", params="ab12")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_run_file(tmp_path / "mlflow.json", RUN)
    assert read_run_file(tmp_path / "mlflow.json") == RUN


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", '{"run_id": "4f"}', '{"tracking_uri": 1}', "NaN"]
)
def test_a_file_that_is_missing_or_damaged_tells_of_no_run(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "mlflow.json").write_text(content)
    assert read_run_file(tmp_path / "mlflow.json") is None
