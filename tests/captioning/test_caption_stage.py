"""The caption stage writes its tables in parts; they appear when all of them are whole."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow.parquet import ParquetFile

from pipeline.captioning import tables
from pipeline.captioning.split import SCHEMAS, Captioned
from pipeline.core import paths
from stages import caption
from tests.workspace import tiny_params, write_params

FILES = [file("lstm") for file in (*caption.FILES, paths.seed_captions)]
Parts = Callable[..., Iterator[Captioned]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_params(tmp_path, tiny_params())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def part(image: str, text: str) -> Captioned:
    """Return the captions of one image, without further searches and without attention."""
    own = {"image_id": image, "split": "test", "text": text, "log_prob": -2.5, "tokens": 3}
    own |= {
        "alternatives": [{"text": text, "log_prob": -2.5}],
        "reference_nll": 9.0,
        "reference_tokens": 4,
        "top5_hits": 1,
    }
    forced = {"image_id": image, "split": "test", "reference": [4, 2], "argmax": [5, 2]}
    return Captioned(
        *(
            pa.Table.from_pylist(r, s)
            for r, s in zip(([own], [], [forced], []), SCHEMAS, strict=True)
        )
    )


def said(stop: str = "") -> Parts:
    """Return a substitute for `captions_of`, which yields two parts per model.

    For the model folder named `stop`, it raises an error after the first part.
    """

    def caption_of(folder: Path, *_: object) -> Iterator[Captioned]:
        yield part("a", f"{folder.name} says")
        if folder.name == stop:
            raise OSError("the disk is full")
        yield part("b", f"{folder.name} says")

    return caption_of


def test_parts_are_one_table_and_further_seeds_stand_in_the_order_of_their_numbers(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "captions_of", said())
    for seed in ("10", "9"):
        (paths.FURTHER_SEEDS / "lstm" / seed).mkdir(parents=True)
    caption.main("lstm")
    own, searches, forced, attention, seeds = (pd.read_parquet(file) for file in FILES)
    assert own[["image_id", "text"]].to_numpy().tolist() == [["a", "lstm says"], ["b", "lstm says"]]
    assert forced.image_id.tolist() == ["a", "b"]
    assert (len(searches), len(attention)) == (0, 0)
    assert seeds[["seed", "image_id", "text"]].to_numpy().tolist() == [
        [seed, image, f"{seed} says"] for seed in (9, 10) for image in ("a", "b")
    ]
    assert [ParquetFile(file).num_row_groups for file in FILES] == [2, 0, 2, 0, 4]


def test_without_further_seeds_their_table_has_columns_and_no_rows(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "captions_of", said())
    caption.main("lstm")
    own, seeds = pd.read_parquet(FILES[0]), pd.read_parquet(FILES[-1])
    assert [*seeds.columns] == [*own.columns, "seed"]
    assert len(seeds) == 0


@pytest.mark.parametrize("stop", ["lstm", "2"])
def test_an_error_in_the_middle_leaves_the_former_tables_and_no_part(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    (paths.FURTHER_SEEDS / "lstm/2").mkdir(parents=True)
    for file in FILES:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("of the last run")
    monkeypatch.setattr(tables, "captions_of", said(stop))
    with pytest.raises(OSError, match="the disk is full"):
        caption.main("lstm")
    assert {file.read_text() for file in FILES} == {"of the last run"}
    assert {path for path in (workspace / "data").rglob("*") if path.is_file()} == {
        workspace / file for file in FILES
    }
