"""The stage for the references of a corpus: what it reads and writes, and its errors."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.core import paths
from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.scoring.tokens import training_captions
from stages.references import main
from tests.workspace import tiny_params, write_params

CORPUS = paths.CORPORA / "scenes"
KEPT = [
    ("b", "b#0", "A man's dog .", "test", "a man dog"),
    ("a", "a#0", "Two cats, asleep.", "val", "two cats asleep"),
    ("c", "c#1", "The sea!", "train", "the sea"),
]
ASIDE = [
    ("b", "b#1", "A DOG", "test", "too short"),
    ("b", "b#2", " ", "test", "empty"),
    ("d", "d#0", "An owl.", "test", "image broken"),
    ("e", "e#0", "A photo that the release puts in no split.", None, "no split"),
    ("e", "e#1", None, None, "undecodable"),
]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_params(tmp_path, tiny_params())
    monkeypatch.chdir(tmp_path)
    CORPUS.mkdir(parents=True)
    columns = ["image_id", "caption_id", "raw", "split"]
    pd.DataFrame(KEPT, columns=[*columns, "text"]).to_parquet(CORPUS / "captions.parquet")
    pd.DataFrame(ASIDE, columns=[*columns, "reason"]).to_parquet(CORPUS / "rejected.parquet")
    return tmp_path


@pytest.mark.usefixtures("workspace", "restore_java")
def test_references_are_the_published_captions_of_kept_images_and_what_is_learnt_is_the_cleaned_text() -> (
    None
):
    main("scenes")
    assert read_json(paths.published("scenes")) == {
        "a": ["Two cats, asleep."],
        "b": ["A man's dog .", "A DOG"],
    }
    assert read_json(paths.references("scenes")) == {
        "a": ["two cats asleep"],
        "b": ["a man 's dog", "a dog"],
    }
    assert read_json(paths.training_captions("scenes")) == ["the sea"]


@pytest.mark.parametrize("lost", ["captions", "rejected"])
def test_a_file_of_the_corpus_that_is_missing_is_one_line_and_nothing_is_written(
    workspace: Path, lost: str
) -> None:
    (CORPUS / f"{lost}.parquet").unlink()
    with pytest.raises(
        UserError, match=rf"^data/corpora/scenes/{lost}\.parquet is not there: run dvc repro$"
    ):
        main("scenes")
    assert {path.name for path in workspace.iterdir()} == {"params.yaml", "data"}
    assert [path.name for path in (workspace / "data").iterdir()] == ["corpora"]


@pytest.mark.usefixtures("restore_java")
def test_training_captions_in_parts_are_those_of_one_call_sorted_and_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = ["the sea", "a dog", "zwei möwen", "a dog", "two cats", "ein ÄPFEL"]
    expected = sorted({"the sea", "a dog", "zwei möwen", "two cats", "ein äpfel"})
    assert [*training_captions(texts, "en")] == expected
    monkeypatch.setattr("pipeline.scoring.tokens.CAPTIONS", 2)
    assert [*training_captions(texts, "en")] == expected
    assert [*training_captions([], "en")] == []
