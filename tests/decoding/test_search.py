"""Captions of a corpus, read a few rows at a time, equal those of the whole file."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.data import corpus
from pipeline.data.corpus import Captions, references

TABLE = pd.DataFrame(
    {
        "image_id": list("baabcd"),
        "caption_id": ["b#0", "a#0", "a#1", "b#1", "c#0", "d#0"],
        "text": ["the sea", "a dog", "one dog", "a beach", "a cat", "an owl"],
        "split": ["test", "train", "train", "test", "val", "test"],
    }
)


@pytest.fixture(params=[1, 2, 100])
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    monkeypatch.setattr(corpus, "ROWS", request.param)
    TABLE.to_parquet(tmp_path / "captions.parquet", index=False)
    return tmp_path / "captions.parquet"


def test_they_are_the_rows_of_their_splits_whenever_they_are_read(file: Path) -> None:
    columns = ["caption_id", "text"]
    some = Captions(file, ["val", "test"], columns)
    for _ in range(2):
        found = pd.concat(some, ignore_index=True)
        pd.testing.assert_frame_equal(
            found, TABLE.iloc[[0, 3, 4, 5]][columns].reset_index(drop=True)
        )


def test_a_column_is_read_value_by_value_whenever_it_is_asked_for(file: Path) -> None:
    texts = Captions(file, ["train"], ["text"])["text"]
    assert list(texts) == list(texts) == ["a dog", "one dog"]
    assert list(Captions(file, [], ["text"])["text"]) == []


def test_references_are_the_texts_of_each_image_in_the_order_of_the_rows(file: Path) -> None:
    found = references(Captions(file, ["test"], ["image_id", "text"]))
    assert list(found.items()) == [("b", ["the sea", "a beach"]), ("d", ["an owl"])]


def test_what_the_file_lacks_is_one_line(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"captions\.parquet has no column raw; it needs raw, split$"
    ):
        list(Captions(file, ["test"], ["raw"]))
    with pytest.raises(UserError, match=r"none\.parquet is not there: run dvc repro$"):
        list(Captions(tmp_path / "none.parquet", ["test"], ["text"]))
