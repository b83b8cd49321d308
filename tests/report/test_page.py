"""The page: what it shows of a finished workspace, and how it behaves in a browser."""

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from pipeline.data.files import write_json
from pipeline.report.best import best_cells
from pipeline.report.charts import score_table
from pipeline.report.learning_curves import write_figures
from pipeline.report.page import headings
from pipeline.report.table import Column, Table
from pipeline.results.scores import MEAN, OWN
from pipeline.scoring.bootstrap import resample_table
from stages import compare
from tests.pictures import put_pictures
from tests.score_tables import joined, scores
from tests.workspace import ROOT

SPEED = {
    "captions_per_second": {"1": 17.0, "64": 150.0},
    "images_per_second": 76.0,
    "machine": "Abacus, 1 thread",
    "commit": "4c1e9a0",
    "decoding": "beam 3, length penalty 0.7, at most 30 tokens",
}
SCORES = {
    "bleu_1": 0.7,
    "bleu_4": 0.25,
    "cider": 0.81,
    "loss": 2.5,
    "perplexity": 12.1825,
    "top5": 0.66,
    "collapse": 0.5,
}
TABLE = scores({"test": SCORES, "val": SCORES})


def test_the_best_figure_of_a_column_is_the_lowest_loss_and_the_highest_of_any_other():
    rows = [(["a"], [0.2, 3.0, 1.0]), (["b"], [0.3, 2.0, None]), (["c"], [0.3, "not run", None])]
    table = Table(
        "", "", "test", {}, ["variant"], [Column("bleu_4"), Column("loss"), Column("cider")], rows
    )
    assert best_cells(table) == {(1, 0), (2, 0), (1, 1)}


def test_nothing_is_marked_best_where_neither_end_is_better():
    rows = [(["a"], [365.0, 0.5, 0.1, 2.0]), (["b"], [100.0, 0.4, 0.2, 0.5])]
    columns = [
        Column("vocabulary"),
        Column("collapse"),
        Column("gender_error"),
        Column("gender_ratio"),
    ]
    assert best_cells(Table("", "", "test", {}, ["variant"], columns, rows)) == {(1, 1), (0, 2)}


def build(folder: Path, images=8, refs=2):
    """Write a finished workspace with the corpus `scenes`, the variants and the baseline.

    Of the variants lstm and merge, merge has no captions yet.
    """
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    params["variants"] = {
        name: {**params["variants"][name], "notes": "tiny"} for name in ("lstm", "merge")
    }
    params["variants"]["lstm"]["paper"] = {"table": "sat_flickr8k", "system": "cnn-lstm"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    ids = [f"{split}{n}" for split in ("train", "val", "test") for n in range(images)]
    rows = [
        (i, f"{i}#{n}", f"A <b> & {i}.", f"a {i}", i.rstrip("0123456789"))
        for i in ids
        for n in range(refs)
    ]
    captions = pd.DataFrame(rows, columns=["image_id", "caption_id", "raw", "text", "split"])
    for name in ("corpora/scenes", "references/scenes", "captions", "scores"):
        (folder / "data" / name).mkdir(parents=True)
    write_json(folder / "data/validation/scenes/results.json", {"success": True})
    captions.to_parquet(folder / "data/corpora/scenes/captions.parquet")
    write_json(
        folder / "data/references/scenes/references.json",
        {i: [f"a {i}"] * refs for i in ids if not i.startswith("train")},
    )
    drawn = {i: Image.new("RGB", (12, 8), (n * 9, 90, 200)) for n, i in enumerate(ids)}
    put_pictures(folder / "data/raw/scenes", drawn)
    scored = pd.DataFrame(
        [(i, i.rstrip("0123456789")) for i in ids if i[0] != "t" or i[1] == "e"],
        columns=["image_id", "split"],
    )
    for name in ("lstm", "merge", "most-frequent--scenes"):
        (folder / f"data/scores/{name}").mkdir()
        TABLE.write(folder / f"data/scores/{name}/scores.csv")
        write_json(folder / f"data/scores/{name}/about.json", {"commit": "4c1e9a0", "seeds": 1})
        if name != "merge":
            (folder / f"data/captions/{name}").mkdir()
            scored.assign(text=f"{name} <i>").to_parquet(
                folder / f"data/captions/{name}/captions.parquet"
            )
            ciders = [n / 10 for n in range(len(scored))]
            scored.assign(protocol="standard", seed=OWN, cider=ciders).to_parquet(
                folder / f"data/scores/{name}/images.parquet"
            )
    write_attention(folder / "data/captions/lstm/attention.parquet", ["test1", "test6"])
    write_weights(
        folder / "models/lstm/model.safetensors",
        {"embedding": [1000, 250], "bias": [7], "scale": []},
    )
    write_json(folder / "reports/speed.json", {"lstm": SPEED})
    (folder / "data/history").mkdir()
    for name in ("lstm", "merge"):
        rows = [
            "epoch,step,lr,train_loss,val_loss,val_cider,val_bleu_4,best",
            "1,60,0.1,4,4.1,0.2,0.05,0",
            "2,120,0.1,3,3.5,0.6,0.1,1",
        ]
        (folder / f"data/history/{name}.csv").write_text("\n".join(rows) + "\n")


def write_attention(file: Path, image_ids: list[str]) -> None:
    """Write the attention of captions of three words over a map of 2 x 2.

    On the second word, the model looks at the lower left corner.
    """
    weights = [[0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0], [0.4, 0.3, 0.2, 0.1]]
    rows = [
        (i, n, word, weights[n], 2, 2, True, False)
        for i in image_ids
        for n, word in enumerate(["two", "red", "<dogs>"])
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(
        rows,
        columns=["image_id", "position", "word", "weights", "rows", "columns", "crops", "pads"],
    ).to_parquet(file)


def write_weights(file: Path, shapes: dict[str, list[int]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
        file,
        {"format": "pt"},
    )


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    build(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """data/report/ of a workspace after `compare`."""
    folder = tmp_path_factory.mktemp("finished")
    build(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        compare.main()
    return folder / "data/report"


@pytest.fixture(scope="module")
def page(reports):
    return (reports / "index.html").read_text()


def test_compare_writes_tables_figures_and_one_page_that_fetches_nothing(reports, page):
    files = [
        f"{name}.{suffix}" for name in ("all", "sat_flickr8k") for suffix in ("csv", "md", "tex")
    ]
    assert sorted(p.name for p in (reports / "tables").iterdir()) == files
    assert sorted(p.name for p in (reports / "figures").iterdir()) == [
        "learning_curves.csv",
        "learning_curves.svg",
        "scores.csv",
    ]
    assert re.findall(r'(?:src|href)="(?!data:image/jpeg|#|tables/|validation/)[^"]*"', page) == []
    assert "url(http" not in page
    assert {f"tables/{name}" for name in files} <= set(re.findall(r'href="([^"]*)"', page))
    assert 'href="validation/scenes/index.html"' in page
    assert (
        '<p class="warning">Warning, scenes, test, beyond n-grams: lstm gives the same '
        "caption for 4 of 8 images.</p>" in page
    )


def test_what_a_system_said_is_text_of_the_page_and_no_markup(page):
    assert "<dd>lstm &lt;i&gt;</dd>" in page
    assert "A &lt;b&gt; &amp; test0." in page
    assert ">&lt;dogs&gt;</button>" in page


def test_the_page_holds_each_picture_once_wherever_it_shows_it(page):
    held = re.findall(r'<symbol id="([^"]*)"', page)
    used = re.findall(r'<use href="#([^"]*)"', page)
    assert len(held) == len(set(held)) == page.count("data:image/jpeg")
    assert set(used) == set(held)
    # Six spread over 8 test images; the three best and worst of lstm; two with its attention.
    assert len(used) == 6 + 2 * 3 + 2


def test_the_best_images_of_a_variant_stand_beside_the_worst(page):
    section = page[page.index('id="extremes"') : page.index('id="disagreements"')]
    sides = section.split('<p class="soft">worst</p>')
    shown = [re.findall("<h4>(test.)</h4>", side) for side in sides]
    assert shown == [["test7", "test6", "test5"], ["test0", "test1", "test2"]]
    assert re.findall("<dt><span>lstm</span><span>(.*)</span></dt>", sides[1]) == [
        "0.80",
        "0.90",
        "1.00",
    ]


def test_speed_stands_with_the_machine_and_the_score_it_buys(page):
    section = page[page.index('id="costs"') : page.index('id="learning-curves"')]
    assert re.findall("<figcaption>(.*?)</figcaption>", section) == [
        "Test CIDEr by parameters of the decoder",
        "Test CIDEr by speed, one by one",
        "Test CIDEr by speed, 64 at once",
    ]
    row = section[section.index('<td class="name">lstm</td>') :].split("</tr>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row) == [
        "lstm",
        "Abacus, 1 thread, commit 4c1e9a0",
        "0.8100",
        "0.25",
        "17",
        "150",
        "76",
    ]
    assert "No speed was measured" not in section


def test_resampled_scores_stand_with_their_intervals_in_tables_and_page(workspace):
    rng = np.random.default_rng(0)
    for name, low in (("lstm", 0.2), ("merge", 0.8)):
        drawn = {
            split: {"cider": low + rng.random(1000) / 9, "loss": np.full(1000, 2.5)}
            for split in ("test", "val")
        }
        path = workspace / f"data/scores/{name}/resamples.parquet"
        path.parent.mkdir(exist_ok=True)
        resample_table(drawn, {"test": ["a"], "val": ["b"]}).to_parquet(path)
    mean = scores({"test": {"collapse": 0.25}}, seed=MEAN, sd={"collapse": 0.0125})
    joined(TABLE, mean).write(workspace / "data/scores/lstm/scores.csv")
    compare.main()
    table = (workspace / "data/report/tables/all.md").read_text()
    lstm = next(line for line in table.splitlines() if line.startswith("| lstm "))
    assert re.search(r"\| 0.2500 \|.*\| \*\*0.810\*\* ±.05\d \|.*\| \*\*2.5000\*\* ±.0000 \|", lstm)
    assert "not run" not in table
    page = (workspace / "data/report/index.html").read_text()
    assert '<td class="best">0.810 <small>±.05' in page
    assert ">0.2500 <small>s.0125</small></td>" in page
    assert "<small>run</small>" not in page
    with open(workspace / "data/report/tables/all.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["variant"], row["test loss_low"], row["test loss_p"]) == ("lstm", "2.5", "1.0")


def test_every_id_of_the_page_is_there_once(page):
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_comparing_twice_gives_the_same_bytes(reports, workspace):
    compare.main()
    written = [
        reports / "index.html",
        *(reports / "tables").iterdir(),
        *(reports / "figures").iterdir(),
    ]
    again = [workspace / "data/report" / file.relative_to(reports) for file in written]
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in written]


def test_a_workspace_in_which_nothing_was_measured_says_which_command_measures(workspace):
    (workspace / "reports/speed.json").write_text("{}")
    shutil.rmtree(workspace / "models")
    (workspace / "data/captions/lstm/attention.parquet").unlink()
    compare.main()
    page = (workspace / "data/report/index.html").read_text()
    assert "<code>captionlab speed</code> measures its trained variants" in page
    assert "Test CIDEr by" not in page
    assert "No variant here attends" in page


def test_a_table_that_no_variant_names_any_more_goes(workspace):
    compare.main()
    params = yaml.safe_load(Path("params.yaml").read_text())
    del params["variants"]["lstm"]["paper"]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    compare.main()
    assert sorted(p.name for p in Path("data/report/tables").iterdir()) == [
        "all.csv",
        "all.md",
        "all.tex",
    ]


def test_a_vocabulary_counted_over_test_captions_is_said_under_the_table(workspace):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["variants"]["lstm"]["train"] = {"vocabulary_splits": ["train", "val", "test"]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    compare.main()
    assert (
        "- lstm: vocabulary counted over train, val, test; tiny\n"
        in Path("data/report/tables/all.md").read_text()
    )


def test_the_curves_of_all_variants_become_one_csv(reports):
    with open(reports / "figures/learning_curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["variant"], r["epoch"], r["val_cider"]) for r in rows] == [
        ("lstm", "1", "0.2"),
        ("lstm", "2", "0.6"),
        ("merge", "1", "0.2"),
        ("merge", "2", "0.6"),
    ]


def test_figures_without_any_training_are_empty_not_an_error(tmp_path):
    write_figures(tmp_path / "figures", {}, score_table([]))
    assert (tmp_path / "figures/learning_curves.csv").read_text() == "variant\n"
    assert (
        tmp_path / "figures/scores.csv"
    ).read_text() == "variant,split,metric,value,low,high,corpus,decoding\n"


def test_a_column_of_differences_has_a_heading_of_its_own():
    columns = [Column("cider", "standard"), Column("cider", "5 refs protocol", paper=True)]
    columns += [Column("cider", "raw - standard", difference=True), Column("seeds")]
    top, below = headings(Table("", "", "test", {}, ["variant"], columns, []))
    assert [(h.text, h.column, h.width, h.height) for h in top] == [
        ("variant", 0, 1, 2),
        ("cider", None, 3, 1),
        ("seeds", 4, 1, 2),
    ]
    assert [(h.text, h.column) for h in below] == [
        ("ours, standard", 1),
        ("paper, 5 refs protocol", 2),
        ("raw - standard", 3),
    ]


CHROMIUM = (
    os.environ.get("CAPTIONLAB_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
)
SORTED = """<table><thead><tr>
<th data-column=0><button>name</button></th><th data-column=1><button>gain</button></th>
<th data-column=2><button>commit</button></th>
</tr></thead><tbody>
<tr><td>b</td><td>+0.012 ±.010</td><td>4c1e9a0+</td></tr><tr><td>a10</td><td>not run</td><td>-</td></tr>
<tr><td>a9</td><td>-0.5 ±.1</td><td>1234567</td></tr><tr><td>c</td><td>+0.1 ±.200 s.004</td><td>0a00000</td></tr>
</tbody></table>"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
    ]
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture
def tab(browser):
    """A page whose errors fail the test."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    troubles = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    yield page
    page.close()
    assert troubles == []


needs_browser = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium on PATH or in CAPTIONLAB_CHROMIUM"
)


@needs_browser
def test_tables_sort_by_figures_with_signs_by_words_and_keep_blanks_at_the_end(tab):
    script = (ROOT / "pipeline/report/page.js").read_text()
    tab.set_content(f"{SORTED}<script>{script}</script>")

    def after_click(column):
        tab.get_by_role("button", name=column).click()
        return tab.locator("tbody td:first-child").all_inner_texts()

    assert after_click("gain") == ["c", "b", "a9", "a10"]
    assert after_click("gain") == ["a9", "b", "c", "a10"]
    assert after_click("name") == ["a9", "a10", "b", "c"]
    assert after_click("commit") == ["c", "b", "a9", "a10"]
    assert after_click("commit") == ["a9", "b", "c", "a10"]


@needs_browser
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_is_as_wide_as_its_window(tab, reports, width):
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto((reports / "index.html").as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") == width


@needs_browser
def test_words_show_where_the_decoder_looked_to_pointer_and_keyboard(tab, reports):
    tab.goto((reports / "index.html").as_uri())
    view = tab.locator(".view").first
    places = [(5, 64), (40, 5), (150, 5), (40, 120), (150, 120)]
    opacity = (
        "(canvas, places) => places.map(([x, y]) => canvas.getContext('2d').getImageData(x, "
        "y, 1, 1).data[3])"
    )

    def corners():
        """Return the opacity at the left edge and in the four corners of what the encoder saw.

        It saw a square of 128 pixels in a picture of 192 x 128 pixels.
        """
        return view.locator("canvas").evaluate(opacity, places)

    assert view.locator("[aria-pressed=true]").inner_text() == "two"
    assert corners() == [150, 0, 0, 0, 0]
    view.get_by_role("button", name="red").hover()
    assert corners() == [150, 0, 0, 215, 0]
    assert view.locator(".told").inner_text() == "“red” (lstm): peak 4.0 times an even map"
    view.get_by_role("button", name="red").focus()
    tab.keyboard.press("ArrowRight")
    assert view.locator("[aria-pressed=true]").inner_text() == "<dogs>"
    _, upper_left, *others = corners()
    assert 0 < upper_left < 215
    assert others[1:] == [0, 0]
