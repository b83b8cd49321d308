"""Scores as a table of bars, numbers beside marks, and what a variant costs."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.core.errors import UserError
from pipeline.report.charts import COLUMNS, SIDE, Mark, places, scatter, score_bars, score_table
from pipeline.report.cost_table import Speed, costs, parameters, read_speeds
from pipeline.report.learning_curves import COLOURS
from pipeline.results.estimates import Estimate
from pipeline.results.result import Result, Setting
from pipeline.results.scores import OWN, Key
from tests.score_tables import scores as table_of
from tests.workspace import ROOT

BASELINE = "most-frequent--scenes"
GREEDY, BEAM = "greedy, at most 30 tokens", "beam 3, length penalty 0.7, at most 30 tokens"


def result(name, cider=None, decoding=GREEDY, corpus="scenes", **more):
    scores = (
        None
        if cider is None
        else table_of({"test": {"cider": cider, "loss": 1.0}, "val": {"cider": 2 * cider}})
    )
    return Result(
        name, Setting(corpus, "official", {"test": 10}, {"test": "5"}), decoding, scores, **more
    )


def speed(decoding=GREEDY, **more):
    return Speed(**{
        "captions_per_second": {"1": 10.0, "64": 200.0}, "images_per_second": 40.0, "decoding": decoding, "machine": "Abacus",
        "commit": None, **more,
    })  # fmt: skip


def test_the_plot_of_scores_reads_columns_of_that_table_and_has_a_panel_per_corpus_decoding_and_metric():
    template = json.loads((ROOT / ".dvc/plots/scores.json").read_text())
    read, made = {"rev"}, set()
    for step in template["transform"]:
        text = json.dumps(step)
        read |= set(re.findall(r"datum\.(\w+)", text)) | {
            name for name in step.get("groupby", []) if "<" not in name
        }
        made |= set(re.findall(r'"as": "(\w+)"', text)) | set(step.get("flatten", []))
    # dvc.yaml names variant and value.
    assert read - made == {"rev", *COLUMNS} - {"variant", "value"}
    panel = next(
        step["calculate"]
        for step in template["transform"]
        if step.get("as") == template["facet"]["field"]
    )
    assert re.findall(r"datum\.(\w+)", panel) == ["corpus", "beside", "metric"]


def test_the_table_of_scores_has_a_row_per_system_split_and_metric_with_the_interval_where_there_is_one():
    estimate = Estimate(0.5, np.linspace(0.4, 0.6, 1001), "x")
    rows = score_table(
        [
            result("lstm", 0.5, estimates={Key("test", "standard", OWN, "cider"): estimate}),
            result(BASELINE, 0.1, ""),
        ]
    )
    assert [tuple(row)[:4] for row in rows.itertuples(index=False)] == [
        ("lstm", "test", "cider", 0.5),
        ("lstm", "val", "cider", 1.0),
        (BASELINE, "test", "cider", 0.1),
        (BASELINE, "val", "cider", 0.2),
    ]
    assert [tuple(row) for row in rows[["corpus", "decoding"]].itertuples(index=False)] == [
        ("scenes", GREEDY)
    ] * 2 + [("scenes", "")] * 2
    assert rows.iloc[0][["low", "high"]].tolist() == pytest.approx([0.405, 0.595])
    assert rows.iloc[1:][["low", "high"]].isna().all(axis=None)


def test_bars_stand_together_only_where_scores_compare():
    results = [
        result("a", 0.5),
        result("b", 0.4, BEAM),
        result("c", 0.3, corpus="flickr8k"),
        result(BASELINE, 0.1, ""),
    ]
    groups = score_bars([*results, result("untrained")])
    assert [group.title for group in groups] == [
        f"scenes: {GREEDY}",
        f"scenes: {BEAM}",
        f"flickr8k: {GREEDY}",
    ]
    assert [list(group.panels) for group in groups] == [["cider"]] * 3


@pytest.mark.parametrize("seed", range(5))
def test_no_number_of_forty_marks_covers_another_or_a_mark(seed):
    rng = np.random.default_rng(seed)
    box = (40.0, 35.0, 280.0, 210.0)  # as large as the axes of a chart
    points = [(float(x), float(y)) for x, y in rng.uniform((60, 55), (260, 190), (40, 2))]
    found = places(points, box)
    gaps = [np.abs(np.subtract(a, b)) for n, a in enumerate(found) for b in found[:n]]
    assert all(gap[0] >= SIDE or gap[1] >= SIDE * 0.7 for gap in gaps)
    assert all(np.abs(np.subtract(a, b)).max() >= SIDE * 0.6 for a in found for b in points)
    assert all(box[0] < x < box[2] and box[1] < y < box[3] for x, y in found)


@pytest.mark.parametrize("xs", [[5.0, 5.0], [1.0, 1000.0], [0.01, 2.0], [3.0, 20.0]])
def test_a_scatter_of_any_range_is_drawn(xs):
    assert scatter(
        [Mark(n, x, 0.5) for n, x in enumerate(xs, 1)], "parameters", "CIDEr", "p"
    ).startswith("<svg")


def test_parameters_are_counted_from_the_header_of_the_weights(tmp_path):
    save_file(
        {"a": np.zeros((3, 4), np.float16), "b": np.zeros((), np.int64)},
        tmp_path / "w",
        {"format": "pt"},
    )
    assert parameters(tmp_path / "w") == 13
    assert parameters(tmp_path / "none") is None


def test_variants_are_numbered_corpus_by_corpus_and_a_speed_under_another_decoding_is_left_out():
    results = [
        result("a", 0.5),
        result("b", 0.4),
        result("c", 0.3, corpus="flickr8k"),
        result(BASELINE, 0.1, ""),
    ]
    scenes, flickr = costs(
        results, {"a": 2_500_000}, {"a": speed(), "b": speed(BEAM), "gone": speed()}
    )
    assert [keys for keys, _ in scenes.table.rows] == [
        ["1", "a", "Abacus, commit unknown"],
        ["2", "b", "n/a"],
    ]
    assert [cells[1:] for _, cells in scenes.table.rows] == [
        ["2.50", "10", "200", "40"],
        [None] * 4,
    ]
    assert scenes.table.warnings == [
        "the speed of b was measured under another decoding and is left out"
    ]
    assert len(scenes.charts) == 3
    assert (flickr.charts, flickr.measured) == ({}, False)
    assert [keys for keys, _ in flickr.table.rows] == [["1", "c"]]


def test_a_chart_of_several_decodings_says_so_and_tells_them_apart():
    a, b, beam = result("a", 0.5), result("b", 0.4), result("b", 0.4, BEAM)
    sizes = {"a": 2_000_000, "b": 4_000_000}
    ((alike,), (mixed,)) = costs([a, b], sizes, {}), costs([a, beam], sizes, {})
    assert list(alike.charts) == ["Test CIDEr by parameters of the decoder"]
    (title,) = mixed.charts
    assert title == "Test CIDEr by parameters of the decoder; a colour and shape for each decoding"
    assert [COLOURS[1] in chart for chart in (*alike.charts.values(), mixed.charts[title])] == [
        False,
        True,
    ]
    assert mixed.table.keys == ["number", "variant", "decoding"]
    assert [keys[2] for keys, _ in mixed.table.rows] == [GREEDY, BEAM]


def test_machines_have_charts_of_their_own():
    (group,) = costs(
        [result("a", 0.5), result("b", 0.4)], {}, {"a": speed(), "b": speed(machine="Loom")}
    )
    assert list(group.charts) == [
        f"Test CIDEr by speed, {how} ({machine})"
        for machine in ("Abacus", "Loom")
        for how in ("one by one", "64 at once")
    ]


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": {"machine": "Abacus"}}', "{"])
def test_a_file_of_speeds_that_is_none_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "speed.json").write_text(text)
    with pytest.raises(
        UserError, match=r"speed.json is not what captionlab speed writes: put \{\} into it"
    ):
        read_speeds(tmp_path / "speed.json")


def test_speeds_are_read_as_they_were_written(tmp_path):
    (tmp_path / "speed.json").write_text(json.dumps({"a": vars(speed())}))
    assert read_speeds(tmp_path / "speed.json") == {"a": speed()}
    assert read_speeds(tmp_path / "none.json") == {}
