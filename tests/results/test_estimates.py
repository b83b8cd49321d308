"""Intervals cover what they should, and a paired test detects what two intervals do not."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.metrics.shared.base import means
from pipeline.report.best import best_cells
from pipeline.report.formats import csv_text, markdown
from pipeline.report.results_table import everything
from pipeline.report.table import Column, Sheet, Table
from pipeline.results.estimates import RESAMPLES, Estimate, p_value, read_estimates
from pipeline.results.result import Result, setting
from pipeline.results.scores import Key
from pipeline.scoring import bootstrap
from pipeline.scoring.bootstrap import resample, resample_table
from tests.score_tables import joined, scores


def key(metric, split="test"):
    return Key(split, "standard", "", metric)


def estimate(value, resamples, images="test"):
    return Estimate(value, np.array(resamples, dtype=float), images)


def test_the_interval_of_a_share_is_the_one_of_the_normal_approximation():
    """For 300 of 1000, it is 0.3 +- 1.96 sqrt(0.3 0.7 / 1000)."""
    values = [1.0] * 300 + [0.0] * 700
    low, high = Estimate(0.3, resample([means({"share": values})], 1000)["share"], "").interval
    assert (low, high) == pytest.approx((0.3 - 0.028403, 0.3 + 0.028403), abs=0.0015)


def test_of_many_intervals_about_95_in_a_hundred_hold_the_true_value():
    truth = np.random.default_rng(7).random((100, 400)) < 0.4
    drawn = resample([means({f"set {n}": truth[:, n] for n in range(400)})], 100)
    intervals = [Estimate(0.4, values, "").interval for values in drawn.values()]
    assert 0.92 <= np.mean([low <= 0.4 <= high for low, high in intervals]) <= 0.98


def test_scores_of_several_metrics_are_drawn_together_and_alike_each_time():
    values = np.random.default_rng(3).random(50)
    both = resample([means({"a": values, "b": 2 * values}), means({"c": -values})], 50)
    assert {name: drawn.shape for name, drawn in both.items()} == {
        "a": (RESAMPLES,),
        "b": (RESAMPLES,),
        "c": (RESAMPLES,),
    }
    assert both["b"] == pytest.approx(2 * both["a"])
    assert both["c"] == pytest.approx(-both["a"])
    assert resample([means({"a": values})], 50)["a"] == pytest.approx(both["a"], abs=1e-12)
    assert resample([], 50) == {}


@pytest.mark.filterwarnings("error")
def test_images_that_do_not_count_are_in_no_mean_and_a_score_that_some_draw_lacks_has_no_interval():
    """All of 40 images have a, every other has b (0 and 1 in turn), one has c, and none has d."""
    rows = np.arange(40)
    b = np.where(rows % 2, np.nan, rows % 4 / 2)
    values = {"a": rows, "b": b, "c": np.where(rows, np.nan, 1.0), "d": np.full(40, np.nan)}
    sums = means(values)
    assert sums.score(sums.statistics.sum(0)) == pytest.approx(
        {"a": 19.5, "b": 0.5, "c": 1.0, "d": np.nan}, nan_ok=True
    )
    drawn = resample([sums, means({"e": rows})], 40)
    assert set(drawn) == {"a", "b", "e"}
    low, high = Estimate(0.5, drawn["b"], "").interval
    # 0.219 is 1.96 sqrt(0.5 0.5 / 20).
    assert (low, high) == pytest.approx((0.5 - 0.219, 0.5 + 0.219), abs=0.03)


def test_the_p_value_counts_resamples_in_which_the_difference_is_gone_or_turned():
    better = estimate(0.5, [0.5] * 8)
    worse = estimate(0.4, [0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.6])
    assert p_value(better, worse) == p_value(worse, better) == 2 / 8
    assert p_value(better, estimate(0.4, [0.4] * 6 + [0.5, 0.6])) == 4 / 8
    assert p_value(better, estimate(0.4, [0.4] * 8)) == 0.0
    assert p_value(better, better) == p_value(better, estimate(0.5, [0.4] * 8)) == 1.0


def test_systems_on_other_images_cannot_be_paired():
    assert p_value(estimate(0.5, [0.5]), estimate(0.4, [0.4], images="others")) is None


def test_a_small_but_steady_difference_is_seen_though_the_intervals_overlap():
    rng = np.random.default_rng(5)
    images = rng.random(200)
    drawn = resample(
        [means({"a": images, "b": images - 0.01 + 0.02 * rng.standard_normal(200)})], 200
    )
    a, b = (Estimate(float(drawn[n].mean()), drawn[n], "") for n in "ab")
    assert a.interval[0] < b.value
    assert p_value(a, b) == 0.0


def test_resamples_are_read_back_by_split_and_only_of_what_was_measured(tmp_path: Path):
    drawn = {
        "test": {"cider": np.arange(1000.0)},
        "val": {"cider": np.ones(1000), "meteor": np.zeros(1000)},
    }
    resample_table(drawn, {"test": ["a", "b"], "val": ["c"]}).to_parquet(tmp_path / "v.parquet")
    table = scores({"test": {"cider": 2.0, "meteor": 0.1}, "val": {"cider": 1.0}})
    found = read_estimates(tmp_path / "v.parquet", table)
    test, val = key("cider"), key("cider", "val")
    assert set(found) == {test, val}
    assert found[test].value == 2.0
    assert found[test].interval == pytest.approx((24.975, 974.025))
    assert found[test].images != found[val].images
    assert read_estimates(tmp_path / "none.parquet", table) == {}


def test_resamples_of_another_protocol_or_seed_are_read_back_as_such(tmp_path: Path):
    """Each group of rows holds its own draws of the same metric."""
    images, groups = {"test": ["a"]}, [("standard", ""), ("raw", ""), ("standard", "mean")]
    drawn = [
        resample_table({"test": {"cider": np.full(1000, float(n))}}, images, *group)
        for n, group in enumerate(groups)
    ]
    pd.concat(drawn).to_parquet(tmp_path / "v.parquet")
    table = joined(*(scores({"test": {"cider": 9.0}}, *group) for group in groups))
    found = read_estimates(tmp_path / "v.parquet", table)
    means = {(key.protocol, key.seed): e.resamples.mean() for key, e in found.items()}
    assert means == {group: float(n) for n, group in enumerate(groups)}


# Half of its 95 % interval is 0.019.
SPREAD = np.linspace(-0.02, 0.02, 1000)


def table_of(*rows, metric="bleu_4"):
    return Table(
        "t",
        "about",
        "test",
        {},
        ["variant"],
        [Column(metric)],
        [([f"v{n}"], [v]) for n, v in enumerate(rows)],
    )


ROWS = [
    estimate(0.5, 0.5 + SPREAD),
    estimate(0.49, 0.49 - SPREAD),  # worse in 625 of 1000 resamples
    estimate(0.45, 0.45 + SPREAD),  # worse in all
    estimate(0.499, 0.499 + SPREAD, images="others"),
    0.5,
]


def test_what_is_within_noise_of_the_best_is_best_too():
    assert best_cells(table_of(*ROWS)) == {(0, 0), (1, 0), (4, 0)}


def test_of_losses_the_lowest_is_the_best():
    assert best_cells(table_of(*ROWS[:3], metric="loss")) == {(2, 0)}


def test_markdown_shows_half_the_interval_and_the_best_in_bold():
    tiny = estimate(0.3, 0.3 + SPREAD / 10)
    lines = markdown(Sheet("all", "T", [table_of(*ROWS[:3], tiny, 0.25)], [], [])).splitlines()
    assert lines[6:] == [
        "| variant |          bleu_4 |",
        "| ------- | --------------: |",
        "| v0      | **0.500** ±.019 |",
        "| v1      | **0.490** ±.019 |",
        "| v2      |     0.450 ±.019 |",
        "| v3      |   0.3000 ±.0019 |",
        "| v4      |          0.2500 |",
    ]


def test_where_neither_end_is_better_there_are_intervals_but_no_best_and_no_p():
    table = table_of(*ROWS[:2], metric="novel")
    assert best_cells(table) == set()
    assert markdown(Sheet("all", "T", [table], [], [])).splitlines()[8:] == [
        "| v0      | 0.500 ±.019 |",
        "| v1      | 0.490 ±.019 |",
    ]
    assert (
        csv_text(Sheet("all", "T", [table], [], [])).splitlines()[0]
        == "variant,test novel,test novel_low,test novel_high"
    )


def test_the_csv_has_bounds_and_the_p_of_the_paired_test_beside_the_figure():
    assert csv_text(Sheet("all", "T", [table_of(*ROWS)], [], [])) == (
        "variant,test bleu_4,test bleu_4_low,test bleu_4_high,test bleu_4_p\n"
        "v0,0.5,0.481,0.519,1.0\n"
        "v1,0.49,0.471,0.509,0.75\n"
        "v2,0.45,0.431,0.469,0.0\n"
        "v3,0.499,0.48,0.518,n/a\n"
        "v4,0.5,n/a,n/a,n/a\n"
    )


def test_a_sheet_says_what_its_intervals_and_its_bold_figures_mean_once_it_has_some():
    corpus = setting(
        "c", "official", pd.DataFrame({"split": ["test"], "image_id": ["a"]}), {"a": ["x"]}
    )
    plain = Result("lstm", corpus, "greedy", scores({"test": {"bleu_4": 0.5}}))
    drawn = replace(plain, estimates={key("bleu_4"): ROWS[0]})
    assert not re.search("±|Bold", markdown(everything([plain], ["bleu_4"])))
    text = markdown(everything([drawn], ["bleu_4"]))
    assert "| lstm    | 0.500 ±.019 |" in text
    assert (
        "- ±: half the 95% interval of a percentile bootstrap over images (1000 resamples; "
        "cider keeps" in text
    )
    assert "paired bootstrap over the same images does not tell from it (p >= 0.05)." in text
    assert "Without ±" not in text


def test_an_image_without_references_is_one_line():
    captions = pd.DataFrame({"split": ["test", "train"], "image_id": ["a", "b"]})
    with pytest.raises(UserError, match=r"^image 'a' has no references in data/references: dvc"):
        setting("c", "official", captions, {})


def test_tables_beyond_n_grams_and_of_gender_have_intervals_where_a_score_is_a_mean_over_images():
    corpus = setting(
        "c", "official", pd.DataFrame({"split": ["test"], "image_id": ["a"]}), {"a": ["x"]}
    )
    figures = {
        "vocabulary": 365.0,
        "novel": 0.5,
        "collapse": 0.25,
        "gender_images": 4.0,
        "gender_error": 0.25,
    }
    drawn = {
        key(name): estimate(figures[name], figures[name] + SPREAD)
        for name in ("novel", "gender_error")
    }
    rows = [
        Result(name, corpus, "greedy", scores({"test": figures}), estimates=drawn)
        for name in ("lstm", "merge")
    ]
    text = markdown(everything(rows, ["diversity"]))
    assert "| lstm    |        365 | 0.500 ±.019 |   0.2500 |" in text
    assert "| lstm    |             4 | **0.250** ±.019 |" in text
    assert (
        "- Without ±: what is no mean over images (counts, ratios, distinct_*, collapse, "
        "log_prob_rho), or of so few" in text
    )


def test_the_draws_are_the_same_however_many_are_made_at_once(monkeypatch):
    together = np.concatenate(list(bootstrap._draws(7)))
    monkeypatch.setattr(bootstrap, "DRAWN", 7 * 3)
    by_three = list(bootstrap._draws(7))
    assert {len(part) for part in by_three} == {3, 1}
    assert (np.concatenate(by_three) == together).all()
    assert (together.sum(axis=1) == 7).all()
