import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.figures import write_figures
from pipeline.files import write_json
from pipeline.report import choose
from pipeline.sheets import Column, Table, best_cells
from pipeline.uncertainty import resample_table
from stages import compare

SCORES = {"bleu_1": 0.7, "bleu_4": 0.25, "cider": 0.81, "loss": 2.5, "perplexity": 12.1825, "top5": 0.66, "collapse": 0.5}


def test_the_best_figure_of_a_column_is_the_lowest_loss_and_the_highest_of_any_other():
    rows = [(["a"], [0.2, 3.0, 1.0]), (["b"], [0.3, 2.0, None]), (["c"], [0.3, "not run", None])]
    table = Table("", "", "test", {}, ["variant"], [Column("bleu_4"), Column("loss"), Column("cider")], rows)
    assert best_cells(table) == {(1, 0), (2, 0), (1, 1)}


def test_nothing_is_marked_best_where_neither_end_is_better():
    rows = [(["a"], [365.0, 0.5, 0.1, 2.0]), (["b"], [100.0, 0.4, 0.2, 0.5])]
    columns = [Column("vocabulary"), Column("collapse"), Column("gender_error"), Column("gender_ratio")]
    assert best_cells(Table("", "", "test", {}, ["variant"], columns, rows)) == {(1, 1), (0, 2)}


def test_a_gallery_spreads_over_the_ids_and_adds_the_extremes_of_each_variant():
    ids = [f"i{n:02}" for n in range(60)]
    falling = pd.Series({i: 60.0 - n for n, i in enumerate(ids)})
    assert choose({"lstm": falling, "flat": falling * 0}, ids[::-1]) == {
        "i05": [],
        "i15": [],
        "i25": [],
        "i35": [],
        "i45": [],
        "i55": [],
        "i59": ["worst of lstm"],
        "i00": ["best of lstm", "worst of flat", "best of flat"],
    }


def test_a_gallery_of_many_variants_stays_small():
    ids = [f"i{n:03}" for n in range(300)]
    ciders = {f"v{k}": pd.Series({i: -abs(n - 5 * k) / 9 for n, i in enumerate(ids)}) for k in range(60)}
    assert len(choose(ciders, ids)) == 40


def build(folder: Path, images=8, refs=2):
    """A finished workspace: corpus `scenes`, variants lstm and merge, the baseline; merge has no captions yet."""
    params = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    params["variants"] = {name: {**params["variants"][name], "notes": "tiny"} for name in ("lstm", "merge")}
    params["variants"]["lstm"]["paper"] = {"table": "sat_flickr8k", "system": "cnn-lstm"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    ids = [f"{split}{n}" for split in ("train", "val", "test") for n in range(images)]
    rows = [
        (i, f"images/{i}.png", f"{i}#{n}", f"A <b> & {i}.", f"a {i}", i.rstrip("0123456789")) for i in ids for n in range(refs)
    ]
    captions = pd.DataFrame(rows, columns=["image_id", "file", "caption_id", "raw", "text", "split"])
    for name in ("corpora/scenes", "raw/scenes/images", "references", "captions", "scores"):
        (folder / "data" / name).mkdir(parents=True)
    captions.to_parquet(folder / "data/corpora/scenes/captions.parquet")
    write_json(folder / "data/references/scenes.json", {i: [f"a {i}"] * refs for i in ids if not i.startswith("train")})
    for n, i in enumerate(ids):
        Image.new("RGB", (12, 8), (n * 9, 90, 200)).save(folder / f"data/raw/scenes/images/{i}.png")
    scored = pd.DataFrame(
        [(i, i.rstrip("0123456789")) for i in ids if i[0] != "t" or i[1] == "e"], columns=["image_id", "split"]
    )
    for name in ("lstm", "merge", "most-frequent--scenes"):
        write_json(folder / f"reports/scores/{name}.json", {"test": SCORES, "val": SCORES})
        if name != "merge":
            scored.assign(text=f"{name} <i>").to_parquet(folder / f"data/captions/{name}.parquet")
            scored.assign(cider=[n / 10 for n in range(len(scored))]).to_parquet(folder / f"data/scores/{name}.parquet")
    (folder / "reports/history").mkdir()
    for name in ("lstm", "merge"):
        rows = [
            "epoch,step,lr,train_loss,val_loss,val_cider,val_bleu_4,best",
            "1,60,0.1,4,4.1,0.2,0.05,0",
            "2,120,0.1,3,3.5,0.6,0.1,1",
        ]
        (folder / f"reports/history/{name}.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    build(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_compare_writes_tables_figures_and_one_page_that_fetches_nothing(workspace):
    compare.main()
    reports = workspace / "reports"
    assert sorted(p.name for p in (reports / "tables").iterdir()) == [
        "all.csv",
        "all.md",
        "sat_flickr8k.csv",
        "sat_flickr8k.md",
    ]
    page = (reports / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:image/jpeg|#|tables/|validation/)[^"]*"', page) == []
    assert "url(http" not in page
    assert 'href="validation/scenes/index.html"' in page
    assert "lstm &lt;i&gt;" in page
    assert "A &lt;b&gt; &amp; test0." in page
    assert page.count('<article class="card">') == 6  # spread over 8 test images; the worst, test0, is among them
    assert "worst of lstm" in page
    assert page.count("<svg") == 3
    assert '<p class="warning">Warning: lstm gives the same caption for 4 of 8 images.</p>' in page


def test_resampled_scores_stand_with_their_intervals_in_tables_and_page(workspace):
    rng = np.random.default_rng(0)
    for name, low in (("lstm", 0.2), ("merge", 0.8)):
        drawn = {split: {"cider": low + rng.random(1000) / 9, "loss": np.full(1000, 2.5)} for split in ("test", "val")}
        path = workspace / f"data/scores/resamples/{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        resample_table(drawn, {"test": ["a"], "val": ["b"]}).to_parquet(path)
    compare.main()
    table = (workspace / "reports/tables/all.md").read_text()
    lstm = next(line for line in table.splitlines() if line.startswith("| lstm "))
    assert re.search(r"\| 0.2500 \|.*\| \*\*0.810\*\* ±.05\d \|.*\| \*\*2.5000\*\* ±.0000 \|", lstm)
    assert "not run" not in table
    assert '<td class="best">0.810 <small>±.05' in (workspace / "reports/index.html").read_text()
    with open(workspace / "reports/tables/all.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["variant"], row["test loss_low"], row["test loss_p"]) == ("lstm", "2.5", "1.0")


def test_every_id_of_the_page_is_there_once(workspace):
    compare.main()
    ids = re.findall(r'\bid="([^"]*)"', (workspace / "reports/index.html").read_text())
    assert len(ids) == len(set(ids))


def test_comparing_twice_gives_the_same_bytes(workspace):
    def outputs():
        compare.main()
        reports = workspace / "reports"
        return {
            p: p.read_bytes()
            for f in ("tables", "figures", "index.html")
            for p in [reports / f, *(reports / f).rglob("*")]
            if p.is_file()
        }

    assert outputs() == outputs()


def test_a_table_that_no_variant_names_any_more_goes(workspace):
    compare.main()
    params = yaml.safe_load(Path("params.yaml").read_text())
    del params["variants"]["lstm"]["paper"]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    compare.main()
    assert sorted(p.name for p in Path("reports/tables").iterdir()) == ["all.csv", "all.md"]


def test_a_vocabulary_counted_over_test_captions_is_said_under_the_table(workspace):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["variants"]["lstm"]["train"] = {"vocabulary_splits": ["train", "val", "test"]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    compare.main()
    assert "- lstm: vocabulary counted over train, val, test; tiny\n" in Path("reports/tables/all.md").read_text()


def test_the_curves_of_all_variants_become_one_csv(workspace):
    compare.main()
    with open("reports/figures/learning_curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["variant"], r["epoch"], r["val_cider"]) for r in rows] == [
        ("lstm", "1", "0.2"),
        ("lstm", "2", "0.6"),
        ("merge", "1", "0.2"),
        ("merge", "2", "0.6"),
    ]


def test_figures_without_any_training_are_empty_not_an_error(tmp_path):
    write_figures(tmp_path / "figures", {})
    assert (tmp_path / "figures/learning_curves.csv").read_text() == "variant\n"
