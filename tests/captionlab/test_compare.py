"""The comparison of two systems on the same images. Rows of the table and files get the same paired
test."""

import csv
import io
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from captionlab.compare.sides import Asked, Pair, read_pair
from pipeline.core import paths
from pipeline.data.files import write_json
from pipeline.data.shards import write_picture
from pipeline.experiment.params import load_params
from pipeline.languages.languages import find_language
from pipeline.languages.tokens import tokens
from pipeline.report.formats import csv_text
from pipeline.report.results_table import everything
from pipeline.results.result import Setting, results_of
from pipeline.scoring.row import write_scores
from pipeline.scoring.variant import Known, Said, score_variant
from tests.languages.captions import published
from tests.pictures import put_pictures
from tests.workspace import tiny_params, write_params

METRICS = ["bleu", "rouge_l", "cider", "chrf", "degeneration"]
MEANT = published("de")
SAID = {
    "merge": {i: MEANT[f"{(int(i) + 1) % 18:02}"][0] for i in MEANT},
    "lstm": {i: MEANT[f"{(int(i) + int(i) % 3) % 18:02}"][1] for i in MEANT},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace in German, so that no test here waits for Java."""
    folder = tmp_path_factory.mktemp("compare")
    params = tiny_params()
    params["corpora"]["scenes"]["language"] = "de"
    params["scoring"] = {"metrics": METRICS, "protocols": [], "clip": None}
    write_params(folder, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        drawn = {i: Image.new("RGB", (32, 24), (14 * n, 90, 0)) for n, i in enumerate(MEANT)}
        for member in put_pictures(paths.RAW / "scenes", drawn):
            write_picture(member, Path("photos"))
        rows = [{"image_id": i, "split": "test"} for i in MEANT]
        table(paths.CORPORA / "scenes/captions.parquet", rows)
        write_json(paths.published("scenes"), MEANT)
        language = find_language("de")
        meant = {i: [tokens(text, language) for text in texts] for i, texts in MEANT.items()}
        for name, said in SAID.items():
            captions = [{"image_id": i, "split": "test", "text": text} for i, text in said.items()]
            table(paths.captions(name), captions)
            known = Known(meant, MEANT, set(), language="de")
            scored = score_variant(Said.of_baseline(pd.DataFrame(captions)), known, METRICS, [])
            write_scores(scored, {"seeds": 1}, paths.SCORES / name, paths.metrics(name))
            write_json(Path(f"{name}.json"), said)
        write_json(Path("references.json"), MEANT)
        yield folder


def table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path, index=False)


def of_files() -> Pair:
    asked = Asked(metrics=",".join(METRICS), language="de")
    return read_pair("merge.json", "lstm.json", Path("references.json"), asked)


def test_the_paired_test_is_that_of_the_tables(workspace: Path) -> None:
    pair = read_pair("merge", "lstm", None, Asked())
    found = {row.metric: row for row in pair.scored[0].compare(pair.scored[1]).differences}
    params = load_params()
    setting = Setting("scenes", "official", {"test": 18}, {"test": "2"}, "de")
    sheet = everything(results_of(params, {"scenes": setting}, paths.SCORES), METRICS)
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(csv_text(sheet)))}
    for name in ("bleu_4", "rouge_l", "cider", "chrf"):
        column = f"test {name}_p (intl)"
        worse = min("merge", "lstm", key=lambda row: float(rows[row][f"test {name} (intl)"]))
        assert float(rows[worse][column]) == pytest.approx(found[name].p, abs=1e-6)
        values = [float(rows[row][f"test {name} (intl)"]) for row in ("merge", "lstm")]
        assert found[name].difference == pytest.approx(values[0] - values[1], abs=2e-6)


def test_files_are_compared_as_rows_are(workspace: Path) -> None:
    rows, files = read_pair("merge", "lstm", None, Asked()), of_files()
    found = [pair.scored[0].compare(pair.scored[1]) for pair in (rows, files)]
    by_name = {row.metric: row for row in found[0].differences}
    for row in found[1].differences:
        assert row == by_name[row.metric]
    names = ["image_id", "cider_this", "cider_other", "cider", "chrf"]
    pd.testing.assert_frame_equal(found[0].per_image[names], found[1].per_image[names])
    mixed = read_pair("merge", "lstm.json", None, Asked())
    again = {row.metric: row for row in mixed.scored[0].compare(mixed.scored[1]).differences}
    assert again["cider"] == by_name["cider"]
    assert mixed.scored[0].language == "de"


def test_winners_are_counted_image_by_image(workspace: Path) -> None:
    pair = read_pair("merge", "lstm", None, Asked())
    found = pair.scored[0].compare(pair.scored[1])
    one, two = (of.per_image.set_index("image_id").cider for of in pair.scored)
    row = found.winners().set_index("metric").loc["cider"]
    counted = (one > two).sum(), (one < two).sum(), (one == two).sum()
    assert (row.this, row.other, row.equal) == counted
    assert sum(counted) == 18
    gaps = (one - two).abs()
    shown = found.differ_most("cider", 4)
    assert gaps[shown].tolist() == sorted(gaps, reverse=True)[:4]
    assert found.winner("cider").value_counts().to_dict() == {
        side: n for side, n in zip(("this", "other", "equal"), counted, strict=True) if n
    }


def test_of_a_score_that_should_be_low_the_lower_one_wins(workspace: Path) -> None:
    pair = of_files()
    found = pair.scored[0].compare(pair.scored[1])
    found.per_image["repetition"] = -1.0
    found.per_image["repetition_this"] = 0.0
    assert set(found.winner("repetition")) == {"this"}
    assert found.winners().set_index("metric").loc["repetition"].this == 18


def test_the_page_shows_the_images_that_differ_most_and_loads_nothing(
    captionlab, workspace: Path
) -> None:  # type: ignore[no-untyped-def]
    status, out, err = captionlab(
        "compare", "merge", "lstm", "--page", "page.html", "--out", "images.csv", "--images", 5
    )
    assert (status, err) == (0, "")
    assert "this: merge; other: lstm" in out
    assert re.search(r"^ *metric +this +other +equal$", out, re.MULTILINE)
    page = unescape((workspace / "page.html").read_text("utf-8"))
    pair = read_pair("merge", "lstm", None, Asked())
    images = pair.scored[0].compare(pair.scored[1]).differ_most("cider", 5)
    assert re.findall(r"<h4>(\d\d)</h4>", page) == images
    assert page.count("data:image/jpeg;base64,") == 5
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert '<dd lang="de" dir="ltr">' in page
    assert all(text in page for text in MEANT[images[0]])
    assert "sacrebleu's tokenizer intl" in page
    with (workspace / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert {row["winner"] for row in rows} <= {"this", "other", "equal"}


def test_a_caption_is_text_on_the_page_and_no_html(captionlab, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    said = {**SAID["merge"], "00": "ein <script>alert(1)</script> hund"}
    write_json(workspace / "odd.json", said)
    files = ("odd.json", "lstm.json", "references.json")
    more = ("--language", "de", "--pictures", "photos", "--page", "odd.html")
    status, _, err = captionlab("compare", *files, *more)
    assert (status, err) == (0, "")
    page = (workspace / "odd.html").read_text("utf-8")
    assert "<script" not in page
    assert "data:image/jpeg;base64," in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("merg", "lstm"), "error: 'merg' is neither a file nor a row of params.yaml (did you mean 'merge'?): the rows are merge, lstm, "),
        (("merge.json", "lstm.json"), "error: two files of captions need references: name their file as the third\n"),
        (("merge", "lstm", "--by", "spice"), "error: images have no score 'spice': they have bleu_1, "),
        (("merge", "lstm", "--page", "data"), "error: data (--page) is a folder: name a file\n"),
        (("merge", "soft-attention"), "error: data/captions/soft-attention/captions.parquet is not there"),
        (("merge", "lstm", "--split", "val"), "error: 'merge' has no captions of split 'val': there are val and test\n"),
        (("merge.json", "lstm.json", "references.json", "--language", "de", "--pictures", "nowhere"),
         "error: nowhere (--pictures) is not a folder: name the one that holds the pictures\n"),
        (("gone.json", "merge.json", "references.json"), "error: gone.json is not there: give a file, "),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(
    captionlab, workspace: Path, arguments, said: str
) -> None:  # type: ignore[no-untyped-def]
    status, out, err = captionlab("compare", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(said)
