"""Outputs appear whole or not at all."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.data.files import scratch, write_json


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"test": {"perplexity": float("inf"), "loss": 800.0}}, "'perplexity'"),
        ({"scores": [1.0, float("nan")]}, "'1'"),
        (float("-inf"), "the value"),
    ],
)
def test_no_json_is_written_with_a_number_that_json_does_not_have(
    tmp_path: Path, value: Any, place: str
) -> None:
    with pytest.raises(UserError, match=rf"j\.json cannot be written: {place} is not finite$"):
        write_json(tmp_path / "j.json", value)
    with pytest.raises(UserError, match=rf"{place} is not finite: measure again$"):
        write_json(tmp_path / "j.json", value, "measure again")
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_is_empty_and_goes_however_its_block_ends(tmp_path: Path) -> None:
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part/of-a-kill").touch()

    def work() -> None:
        with scratch(tmp_path / "model") as folder:
            assert list(folder.iterdir()) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []
