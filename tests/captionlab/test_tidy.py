"""`captionlab.results`: the scores of a workspace as one tidy table."""

import numpy as np
import pytest

from captionlab import UserError, results
from pipeline.results.scores import MEAN, OWN, Score, ScoreTable
from tests.tracking_workspace import SCORES, make_workspace


@pytest.fixture
def workspace(tmp_path):
    make_workspace(tmp_path)
    return tmp_path


def test_every_score_of_every_variant_and_baseline_is_a_row(workspace):
    table = results(workspace)
    assert list(table.columns) == [
        *("variant", "corpus", "split", "protocol", "seed", "metric", "value", "low", "high", "sd")
    ]
    for variant, splits in SCORES.items():
        for split, scores in splits.items():
            own = table[(table.variant == variant) & (table.split == split)]
            assert dict(zip(own.metric, own.value, strict=True)) == scores
    assert set(table.variant) == {*SCORES, "most-frequent--scenes"}
    assert set(table.corpus) == {"scenes"}
    assert set(table.protocol) == {"standard"}
    assert set(table.seed) == {""}


def test_the_best_variant_comes_first(workspace):
    assert results(workspace).variant[0] == "lstm"  # By CIDEr on the test images.


def test_intervals_seeds_and_protocols_stand_in_columns_of_their_own(workspace):
    rows = (
        Score("test", "standard", OWN, "cider", 0.5, 0.4, 0.6),
        Score("test", "raw", OWN, "cider", 0.6),
        Score("test", "standard", "2", "cider", 0.7),
        Score("test", "standard", MEAN, "cider", 0.6, 0.5, 0.7, sd=0.14),
    )
    ScoreTable(rows).write(workspace / "data/scores/merge/scores.csv")
    table = results(workspace).query("variant == 'merge'").drop(columns=["variant", "corpus"])
    assert table.replace({np.nan: None}).values.tolist() == [
        ["test", "standard", "", "cider", 0.5, 0.4, 0.6, None],
        ["test", "raw", "", "cider", 0.6, None, None, None],
        ["test", "standard", "2", "cider", 0.7, None, None, None],
        ["test", "standard", "mean", "cider", 0.6, 0.5, 0.7, 0.14],
    ]


def test_another_folder_or_one_without_scores_is_one_line(workspace, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        UserError, match=r"empty is not a workspace \(it has no params\.yaml\): go to"
    ):
        results(empty)
    (empty / "params.yaml").write_text((workspace / "params.yaml").read_text())
    monkeypatch.chdir(empty)
    with pytest.raises(UserError, match=r"^\. has no scores yet: run dvc repro there$"):
        results()
