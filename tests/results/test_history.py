"""The history of a training is read as numbers, or the error is one line."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.results.history import read_history


def test_empty_cells_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("epoch,step,val_loss,reward\n1,10,2.5,\n2,20,,0.25\n")
    assert read_history(tmp_path / "h.csv") == [
        {"epoch": 1.0, "step": 10.0, "val_loss": 2.5},
        {"epoch": 2.0, "step": 20.0, "reward": 0.25},
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("1,10,nan", "val_loss is nan in epoch 1"),
        ("1,10,inf", "val_loss is inf in epoch 1"),
        ("1,10", "too few fields"),
        ("1,10,2,3", "too few fields, too many"),
        (",10,2", "no epoch and step"),
        ("1,10,x", "could not convert"),
        ("1,10,\udcff", "decode"),
    ],
)
def test_what_is_no_history_says_why(tmp_path: Path, rows: str, reason: str) -> None:
    text = f"epoch,step,val_loss\n{rows}\n"
    (tmp_path / "h.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        UserError, match=rf"h\.csv is not a training history: .*{reason}.*: dvc checkout"
    ):
        read_history(tmp_path / "h.csv")


def test_a_history_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there: run dvc repro"):
        read_history(tmp_path / "h.csv")
