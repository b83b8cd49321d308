"""JSON and Parquet files of our own: damage gives an error of one line, and none holds NaN."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.data.checked import read_json, read_table, read_texts
from pipeline.data.corpus import Captions, read_captions
from pipeline.data.files import write_json


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not a readable JSON file: Expecting"),
        (b"", "is not a readable JSON file"),
        (b"\xff\xfe", "is not a readable JSON file: 'utf-8' codec"),
        (b'{"perplexity": Infinity}', "is not a readable JSON file: Infinity is not a number"),
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
        (b"", "is not a readable Parquet file"),
        (b"PAR1 and nothing", "is not a readable Parquet file"),
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
    """Every seventh byte is flipped in turn: the file is read, or the error is one line."""
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


@pytest.mark.parametrize("value", [[], 1, {"a": "b"}, {"a": [None]}, {"a": {"b": "c"}}])
def test_texts_by_image_are_lists_of_texts(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "t.json", value)
    with pytest.raises(UserError, match=r"t\.json.* texts.*: dvc checkout brings back"):
        read_texts(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("column", "cell"), [("log_prob", "x"), ("undecodable", 1), ("argmax", "x"), ("tokens", True)]
)
def test_a_column_that_is_no_text_is_of_its_kind(tmp_path: Path, column: str, cell: Any) -> None:
    table(**{column: [cell, cell]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=f"the column {column} does not hold "):
        read_table(tmp_path / "t.parquet")
