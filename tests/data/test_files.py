"""JSON and Parquet of our own making: what is damaged is one line, and no file holds NaN."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.data.corpus import Captions, read_captions
from pipeline.data.files import read_json, read_table, write_json


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
    with pytest.raises(
        UserError, match=rf"j\.json cannot be written: {place} is not finite: train"
    ):
        write_json(tmp_path / "j.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is no readable JSON file: Expecting"),
        (b"", "is no readable JSON file"),
        (b"\xff\xfe", "is no readable JSON file: 'utf-8' codec"),
        (b'{"perplexity": Infinity}', "is no readable JSON file: Infinity is no number"),
        (None, "is not there: run dvc repro"),
    ],
)
def test_a_json_file_that_is_damaged_is_one_line(
    tmp_path: Path, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / "j.json").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "j.json")


ROWS = [("a", "a#0", "A dog", "a dog", "train"), ("b", "b#0", "A cat", "a cat", "val")]


def table(**changes: Any) -> pd.DataFrame:
    columns = ["image_id", "caption_id", "raw", "text", "split"]
    return pd.DataFrame(ROWS, columns=columns).assign(**changes)


def test_tables_that_are_damaged_or_of_another_kind_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    for data, message in [
        (b"", "is no readable Parquet file"),
        (b"PAR1 and nothing", "is no readable Parquet file"),
        (None, "is not there: run dvc repro"),
    ]:
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_table(path)
    for changes, message in [
        ({"image_id": [1, 2]}, "the column image_id holds int64, not text"),
        ({"text": ["a dog", None]}, "a row has no text: dvc checkout brings back"),
        ({"split": [True, False]}, "the column split holds bool, not text"),
    ]:
        table(**changes).to_parquet(path)
        with pytest.raises(UserError, match=message):
            read_captions(path, ["image_id", "text", "split"])
        with pytest.raises(UserError, match=message):
            list(Captions(path, ["train", "val"], ["image_id", "text"]))


def test_a_table_whose_pages_are_spoilt_is_one_line(tmp_path: Path) -> None:
    """Each byte of the data in turn: it reads as something, or is one line, never another error."""
    path, refused = tmp_path / "t.parquet", 0
    table().to_parquet(path)
    whole = path.read_bytes()
    for place in range(4, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_captions(path, ["image_id", "text", "split"])
        except UserError:
            refused += 1
    assert refused > 20
