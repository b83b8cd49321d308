"""`captionlab.results`: the scores of a workspace as one tidy table."""

import numpy as np
import pytest

from captionlab import UserError, results
from tests.tracking_workspace import SCORES, make_scores, make_workspace


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
    assert results(workspace).variant[0] == "lstm"  # by CIDEr of the test images


def test_intervals_are_the_quantiles_of_the_resamples(workspace):
    """Four resamples, 0 to 3 thousandths above the score: the 2.5th percentile lies 0.075 of a step
    above the lowest."""
    baseline = results(workspace).query("variant == 'most-frequent--scenes' and split == 'val'")
    row = baseline.iloc[0]
    assert (row.value, row.low, row.high) == pytest.approx((0.1, 0.100075, 0.102925))


def test_seeds_and_protocols_stand_in_columns_of_their_own(workspace):
    scores = {"cider": 0.5, "raw.cider": 0.6, "seed-2.cider": 0.7}
    scores |= {"mean.cider": 0.6, "sd.cider": 0.14}
    make_scores(workspace, "merge", dict.fromkeys(("val", "test"), scores))
    table = results(workspace).query("variant == 'merge' and split == 'test'")
    found = table[["protocol", "seed", "metric", "value", "sd"]].replace({np.nan: None})
    assert found.values.tolist() == [
        ["standard", "", "cider", 0.5, None],
        ["raw", "", "cider", 0.6, None],
        ["standard", "2", "cider", 0.7, None],
        ["standard", "mean", "cider", 0.6, 0.14],
    ]


def test_another_folder_or_one_without_scores_is_one_line(workspace, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty is no workspace \(it has no params\.yaml\): go to"):
        results(empty)
    (empty / "params.yaml").write_text((workspace / "params.yaml").read_text())
    monkeypatch.chdir(empty)
    with pytest.raises(UserError, match=r"^\. has no scores yet: run dvc repro there$"):
        results()
