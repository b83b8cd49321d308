"""The table of scores: what is written is read back, and each column holds one thing."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.files import digest
from pipeline.experiment.protocols import find_protocol
from pipeline.metrics.shared.base import means
from pipeline.results.scores import MEAN, OWN, Key, Score, ScoreTable, own_standard
from pipeline.scoring.bootstrap import resample
from pipeline.scoring.row import ScoredRow, write_scores
from pipeline.scoring.score import Scored
from pipeline.tracking.metric_names import SPREAD, MetricName, named_scores

TABLE = ScoreTable(
    (
        Score("test", "standard", OWN, "cider", 0.1 + 0.2, 0.25, 1 / 3),
        Score("test", "raw", OWN, "cider", 0.8, 0.75, 0.85),
        Score("test", "standard", "2", "cider", 1e-17),
        Score("test", "standard", MEAN, "cider", 0.15, 0.1, 0.2, 0.07),
        Score("val", "standard", OWN, "vocabulary", 365.0),
    )
)


def test_a_table_is_written_as_a_literal_and_read_back_to_the_last_bit(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == (
        b"split,protocol,seed,metric,value,low,high,sd\n"
        b"test,standard,,cider,0.30000000000000004,0.25,0.3333333333333333,\n"
        b"test,raw,,cider,0.8,0.75,0.85,\n"
        b"test,standard,2,cider,1e-17,,,\n"
        b"test,standard,mean,cider,0.15,0.1,0.2,0.07\n"
        b"val,standard,,vocabulary,365.0,,,\n"
    )
    assert ScoreTable.read(tmp_path / "scores.csv") == TABLE


@pytest.mark.parametrize("seed", range(20))
def test_any_float_reads_back_as_itself_and_a_table_written_twice_is_equal(
    tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(40) * 10.0 ** rng.integers(-300, 300, 40)
    table = ScoreTable(
        tuple(Score("val", "raw", OWN, f"m{n}", float(v), -float(v)) for n, v in enumerate(values))
    )
    files = tmp_path / "a.csv", tmp_path / "b.csv"
    table.write(files[0])
    read = ScoreTable.read(files[0])
    read.write(files[1])
    assert read == table
    assert digest(files[0]) == digest(files[1])


def test_a_table_answers_by_split_metric_protocol_and_seed() -> None:
    assert TABLE.value("test", "cider") == 0.1 + 0.2
    assert TABLE.value("test", "cider", "raw") == 0.8
    assert TABLE.value("test", "cider", seed="2") == 1e-17
    assert TABLE.value("val", "cider") is None
    assert TABLE.metrics("val") == ["vocabulary"]
    assert TABLE.metrics("val", "raw") == []
    assert (TABLE.splits, TABLE.protocols) == (["test", "val"], ["raw"])


NAMES = {
    "test/cider": MetricName("test", "cider"),
    "test/raw.bleu_4": MetricName("test", "bleu_4", protocol="raw"),
    "val/cleaned-references.cider": MetricName("val", "cider", protocol="cleaned-references"),
    "val/seed-2.loss": MetricName("val", "loss", seed="2"),
    "val/mean.cider": MetricName("val", "cider", seed=MEAN),
    "val/sd.cider": MetricName("val", "cider", seed=SPREAD),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_mlflow_is_made_and_read_by_the_same_rule(name: str) -> None:
    assert str(NAMES[name]) == name
    assert MetricName.parse(name) == NAMES[name]


def test_mlflow_keeps_the_names_that_its_older_runs_have() -> None:
    assert named_scores(TABLE) == {
        "test/cider": 0.1 + 0.2,
        "test/raw.cider": 0.8,
        "test/seed-2.cider": 1e-17,
        "test/mean.cider": 0.15,
        "test/sd.cider": 0.07,
        "val/vocabulary": 365.0,
    }
    assert MetricName.parse("test/raw.cider").key == Key("test", "raw", OWN, "cider")


def part(value: float, **more: float) -> Scored:
    """Return scores of two test images and one val image; only cider has draws."""
    per_image = pd.DataFrame(
        {"image_id": ["a", "b", "c"], "split": ["test", "test", "val"], "cider": value}
    )
    figures = {"cider": value, "bleu_4": value / 2, "loss": 1 / value, **more}
    draws = {"cider": np.linspace(value - 0.1, value + 0.1, 1000)}
    return Scored(
        {"test": figures, "val": {"cider": value}},
        {},
        per_image,
        {"test": draws, "val": draws},
        {"test": ["a", "b"], "val": ["c"]},
    )


ROW = ScoredRow(
    {
        ("standard", OWN): part(0.5, meteor=0.25),
        ("raw", OWN): part(0.6),
        ("beam-5", OWN): part(0.7),
        ("cleaned-references", OWN): part(0.8),
        ("standard", "2"): part(0.9),
    }
)


def test_no_name_with_a_dot_or_a_protocol_in_it_reaches_a_metric_or_a_column(
    tmp_path: Path,
) -> None:
    write_scores(ROW, {}, tmp_path / "v", tmp_path / "m.json")
    table = ScoreTable.read(tmp_path / "v/scores.csv")
    assert {row.metric for row in table} == {"cider", "bleu_4", "loss", "meteor"}
    assert {(row.protocol, row.seed) for row in table} == set(ROW.parts)
    assert all(find_protocol(row.protocol).about for row in table)
    for name in ("images", "resamples"):
        columns = pd.read_parquet(tmp_path / f"v/{name}.parquet").columns
        assert {"protocol", "seed", "cider"} <= set(columns)
        assert not any("." in column or "-" in column for column in columns)


def test_the_metrics_file_is_the_literal_that_dvc_shows(tmp_path: Path) -> None:
    """It holds only the standard scores of the row's own system, with sorted keys."""
    write_scores(ROW, {}, tmp_path / "v", tmp_path / "m.json")
    assert (tmp_path / "m.json").read_text() == (
        '{\n  "test": {\n    "bleu_4": 0.25,\n    "cider": 0.5,\n    "meteor": 0.25\n  },\n'
        '  "val": {\n    "cider": 0.5\n  }\n}\n'
    )
    assert read_json(tmp_path / "v/about.json") == {"unavailable": {}}


def test_an_interval_stands_beside_what_was_resampled_and_nothing_beside_the_rest() -> None:
    row = ROW.scores.get(Key("test", "raw", OWN, "cider"))
    assert row is not None
    assert (row.low, row.high) == pytest.approx((0.505, 0.695))
    loss = ROW.scores.get(Key("test", "raw", OWN, "loss"))
    assert loss is not None
    assert (loss.low, loss.high, loss.sd) == (None, None, None)


def test_of_scores_per_image_those_of_the_rows_own_system_are_picked() -> None:
    own = own_standard(ROW.per_image)
    assert list(own.columns) == ["image_id", "split", "cider"]
    assert own.cider.tolist() == [0.5, 0.5, 0.5]
    assert len(ROW.per_image) == 3 * len(ROW.parts)


def test_a_score_that_some_draw_lacks_has_no_interval_in_the_table() -> None:
    """One image of three has a figure, so some draws have none."""
    values = np.array([0.5, math.nan, math.nan])
    drawn = resample([means({"rare": values, "all": np.ones(3)})], 3)
    scored = Scored(
        {"test": {"rare": 0.5, "all": 1.0}}, {}, pd.DataFrame(), {"test": drawn}, {"test": [*"abc"]}
    )
    rows = {row.metric: row for row in ScoredRow({("standard", OWN): scored}).scores}
    assert (rows["rare"].low, rows["all"].low) == (None, 1.0)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_score_that_is_not_finite_is_never_written(tmp_path: Path, number: float) -> None:
    table = ScoreTable((Score("test", "standard", "2", "perplexity", number),))
    with pytest.raises(
        UserError, match=r"cannot be written: test standard 2 perplexity is not fin"
    ):
        table.write(tmp_path / "scores.csv")
    assert list(tmp_path.iterdir()) == []


HEAD = "split,protocol,seed,metric,value,low,high,sd\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a table of scores: FileNotFoundError"),
        ("split,metric\ntest,cider\n", "is not a table of scores: KeyError: 'value'"),
        (HEAD + "test,standard,,cider,high,,,\n", "could not convert string to float: 'high'"),
        (HEAD + "test,standard,,cider,inf,,,\n", "inf is not a score"),
        (HEAD + "test,standard,,cider\n", "is not a table of scores"),
    ],
)
def test_a_table_of_scores_that_is_damaged_is_one_line(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        ScoreTable.read(tmp_path / "scores.csv")
