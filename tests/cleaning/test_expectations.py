"""A planted fault stops the pipeline; one line names the expectation, the count and the rows."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.cleaning.data_docs import write_data_docs
from pipeline.cleaning.expectations import validate
from pipeline.cleaning.facts import usual_count
from pipeline.cleaning.image_check import Picture
from pipeline.core.errors import UserError
from pipeline.data.corpus import COLUMNS, SPLITS
from tests.pictures import exchange, pictures_of, put_pictures

OPTIONS = SimpleNamespace(
    language="en", lower=True, punctuation="drop", one_letter_words="keep", min_words=2, max_words=6, min_images_per_split=2,
    max_shared_captions=0.25, max_shared_pictures=0.0, max_uneven_captions=0.01,
)  # fmt: skip


def set_aside(*rows):
    """Return a table of rows (image_id, reason, raw)."""
    return pd.DataFrame(rows, columns=["image_id", "reason", "raw"]).astype("str")


EMPTY = set_aside()
THREE = set_aside(*(("elsewhere", why, "A") for why in ("too long", "duplicate", "too long")))


def corpus():
    """Return two captions each of two images per split: a0 a1 train, b0 b1 val, c0 c1 test."""
    rows = [
        (
            f"{letter}{n}",
            f"{letter}{n}#{k}",
            f"The {letter}{n} no {k}.",
            f"the {letter}{n} no {k}",
            split,
        )
        for letter, split in (("a", "train"), ("b", "val"), ("c", "test"))
        for n in (0, 1)
        for k in (0, 1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype("str")


def pictures():
    return {image: Picture(None, image) for image in corpus()["image_id"]}


def validated(captions, rejected=EMPTY, seen=None, **relaxed):
    """Return the result of `validate` for a file of these captions."""
    options = SimpleNamespace(**vars(OPTIONS) | relaxed)
    with TemporaryDirectory() as folder:
        captions.to_parquet(Path(folder) / "captions.parquet", index=False)
        return validate(Path(folder) / "captions.parquet", rejected, seen or pictures(), options)


def failure(captions, seen=None, **relaxed):
    with pytest.raises(UserError) as error:
        validated(captions, seen=seen, **relaxed)
    message = str(error.value)
    assert message.startswith("validation failed: ")
    assert "\n" not in message
    return message.removeprefix("validation failed: ")


def planted(row, **values):
    captions = corpus()
    for column, value in values.items():
        captions.loc[row, column] = value
    return captions


@pytest.fixture(scope="module")
def result():
    return validated(corpus(), THREE)


def test_a_sound_corpus_meets_every_expectation(result):
    assert result["success"]
    assert result["rows"] == 12
    assert result["images"] == {"test": 2, "train": 2, "val": 2}
    assert result["rejected"] == {"duplicate": 1, "too long": 2}
    assert all(row["success"] and not row["error"] for row in result["expectations"])


def test_the_suite_covers_what_a_corpus_needs(result):
    assert [row["name"] for row in result["expectations"]] == [
        "rows", "columns", "image_id present", "image_id is text", "caption_id present",
        "caption_id is text", "raw present", "raw is text", "text present", "text is text", "split present", "split is text",
        "caption ids unique", "split values", "every split there", "splits large enough", "splits disjoint",
        "captions shared by train", "captions shared by val", "captions shared by test", "captions per image",
        "length in words", "characters", "text follows from raw", "images decodable", "no image in two splits",
    ]  # fmt: skip


def test_two_runs_give_the_same_json_and_the_same_page(result, tmp_path):
    again = validated(corpus(), THREE)
    assert json.dumps(again) == json.dumps(result)
    write_data_docs(result, "tiny", tmp_path / "one")
    write_data_docs(again, "tiny", tmp_path / "two")
    assert (tmp_path / "one" / "index.html").read_bytes() == (
        tmp_path / "two" / "index.html"
    ).read_bytes()


def test_the_page_is_self_contained_and_shows_every_expectation(result, tmp_path):
    write_data_docs(result, "<tiny>", tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"https?:|src=|href=|<script", page)
    assert "<h1>Corpus &lt;tiny&gt;</h1>" in page
    assert page.count('<td class="yes">met</td>') == len(result["expectations"])
    assert '<tr><td>too long</td><td class="n">2</td></tr>' in page


@pytest.fixture
def by_fives(monkeypatch):
    """A function like `validated`, which reads the file five rows at a time."""

    def check(captions):
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.data.corpus.ROWS", 5)
            return validated(captions)

    return check


def test_what_is_usual_is_counted_by_image_and_not_by_row():
    assert usual_count(np.array([2] * 50 + [3] * 45 + [1] * 5)) == 2  # 100 rows; 3 has 135
    assert usual_count(np.array([2, 1, 1, 2])) == 1  # the smallest of equally frequent counts
    assert usual_count(np.array([], int)) == 1


def test_a_file_is_validated_alike_some_rows_at_a_time(by_fives):
    """The row that is tolerated is named alike, too."""
    captions = planted(11, text="the a0 no 0", raw="The a0 no 0.")
    found = by_fives(captions)
    assert found == validated(captions)
    shared = next(row for row in found["expectations"] if row["name"] == "captions shared by test")
    assert (shared["checked"], shared["unexpected"], shared["first"]) == (4, 1, ["c1#1"])


@pytest.mark.parametrize(
    "faults",
    [
        [(0, "caption_id", "c1#1")],
        [(0, "caption_id", "c1#1"), (5, "caption_id", None)],
        [
            (row, *text)
            for row in (0, 3)
            for text in (("text", "the c1 no 1"), ("raw", "The c1 no 1."))
        ],
        [(2, "split", "test"), (7, "raw", None), (11, "text", "the  other")],
        [(4, "split", None), (9, "image_id", "a0"), (1, "text", "one"), (6, "text", "two")],
    ],
    ids=["caption ids", "caption ids and one missing", "shared text", "three kinds", "four kinds"],
)
def test_faults_in_different_parts_of_a_file_are_told_together(by_fives, faults):
    captions = corpus()
    for row, column, value in faults:
        captions.loc[row, column] = value
    with pytest.raises(UserError) as error:
        by_fives(captions)
    assert str(error.value) == f"validation failed: {failure(captions)}"


def test_a_caption_id_that_stands_twice():
    assert failure(planted(1, caption_id="a0#0")) == (
        "'caption ids unique' (no caption_id stands twice): 2 of 12 rows, first a0#0, a0#0"
    )


def test_a_missing_value():
    message = failure(planted(3, raw=None))
    assert "'raw present' (every row has its raw): 1 of 12 rows, first a1#1" in message


def test_a_split_that_is_none():
    assert "'split values' (split is train, val or test): 1 of 12 rows, first a0#0;" in failure(
        planted(0, split="dev")
    )


def test_an_image_in_two_splits():
    message = failure(planted(0, split="test"))
    assert (
        "'splits disjoint' (all captions of an image are in one split): 2 of 12 rows, "
        "first a0#0, a0#1" in message
    )


def test_a_split_without_images():
    captions = corpus()
    message = failure(captions[captions["split"] != "val"])
    assert message == "'every split there' (no split is empty): val missing"


def test_a_split_with_too_few_images():
    captions = corpus()
    message = failure(captions[captions["image_id"] != "c1"])
    assert (
        message
        == "'splits large enough' (a split has at least 2 images): 2 of 10 rows, first c0#0, c0#1; "
        "images: test 1, train 2, val 2 (corpora in params.yaml: min_images_per_split)"
    )


def test_an_image_with_the_captions_of_many():
    extra = pd.concat(
        [
            corpus(),
            *[
                planted(0, caption_id=f"a0#{n}", text=f"x {n}", raw=f"x {n}")[:1]
                for n in range(2, 6)
            ],
        ]
    )
    message = failure(extra.reset_index(drop=True))
    assert message.startswith(
        "'captions per image' (99% of the rows: images with about 2 captions, as most "
        "have): 6 of 16 rows"
    )


def many(counts):
    """Return images with these numbers of captions, placed in the three splits in turn."""
    rows = [
        (f"i{n}", f"i{n}#{k}", f"X {n} no {k}", f"x {n} no {k}", SPLITS[n % 3])
        for n, count in enumerate(counts)
        for k in range(count)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype("str")


def whole(captions):
    return {image: Picture(None, image) for image in captions["image_id"]}


def test_a_corpus_of_uneven_counts_names_the_key_that_lets_it_pass():
    """Of thirty images with five captions, every tenth has eleven instead: 33 of 168 rows."""
    captions = many([11 if n % 10 == 0 else 5 for n in range(30)])
    message = failure(captions, whole(captions))
    assert message == (
        "'captions per image' (99% of the rows: images with about 5 captions, as most have): "
        "33 of 168 rows, first i0#0, i0#1, i0#2, i0#3, i0#4 (corpora in params.yaml: "
        "max_uneven_captions)"
    )
    assert failure(captions, whole(captions), max_uneven_captions=0.19)
    assert validated(captions, seen=whole(captions), max_uneven_captions=0.2)["success"]


@pytest.mark.parametrize(
    "counts",
    [[1 + n % 8 for n in range(24)], [5 if n % 3 else 1 for n in range(24)]],
    ids=["one to eight", "one for some and five for most"],
)
def test_any_number_of_captions_an_image_can_be_let_pass(counts):
    captions = many(counts)
    assert "max_uneven_captions" in failure(captions, whole(captions))
    assert validated(captions, seen=whole(captions), max_uneven_captions=1.0)["success"]


def test_captions_are_counted_as_published_not_as_they_were_left():
    """Four of the five captions of an image are duplicates that the cleaner itself removed."""
    captions = many([5] * 11 + [1])
    repeated = set_aside(*[("i11", "duplicate", "X 11 no 0")] * 4)
    seen = whole(captions)
    counts = {"checked": 56, "unexpected": 0}
    found = validated(captions, repeated, seen, max_uneven_captions=0.0)["expectations"]
    of_images = next(row for row in found if row["name"] == "captions per image")
    assert {key: of_images[key] for key in counts} == counts
    lacking = set_aside(*[("i11", "empty", " ")] * 4)
    with pytest.raises(UserError, match=r"'captions per image' .*: 1 of 56 rows, first i11#0"):
        validated(captions, lacking, seen)


def test_a_caption_that_is_too_long():
    long = "one two three four five six seven"
    assert failure(planted(4, text=long, raw=long)) == (
        "'length in words' (a caption has 2 to 6 words): 1 of 12 rows, first b0#0 "
        "(corpora in params.yaml: min_words, max_words)"
    )


def test_a_line_break_in_a_caption():
    message = failure(planted(4, text="the b0\u2028no 0"))
    assert "'characters' (one clean line of text): 1 of 12 rows, first b0#0" in message


def test_a_text_that_is_not_what_cleaning_makes_of_raw():
    assert failure(planted(5, text="The b0 no 1")) == (
        "'text follows from raw' (text is what cleaning makes of raw): 1 of 12 rows, first b0#1"
    )


def test_an_image_that_cannot_be_decoded_or_was_never_looked_at():
    seen = pictures() | {"b0": Picture("image broken: truncated", None)}
    del seen["c1"]
    assert failure(corpus(), seen) == (
        "'images decodable' (every image file is there and whole): 4 of 12 rows, first "
        "b0#0, b0#1, c1#0, c1#1"
    )


def test_the_same_picture_in_two_splits():
    seen = pictures() | {"c1": Picture(None, "a0")}
    assert failure(corpus(), seen) == (
        "'no image in two splits' (equal pictures are in one split): 4 of 12 rows, first "
        "a0#0, a0#1, c1#0, c1#1 (corpora in params.yaml: max_shared_pictures)"
    )
    assert failure(corpus(), seen, max_shared_pictures=0.3) == (
        "'no image in two splits' (equal pictures are in one split, but for at most 30% of the "
        "rows): 4 of 12 rows, first a0#0, a0#1, c1#0, c1#1 (corpora in params.yaml: "
        "max_shared_pictures)"
    )
    assert validated(corpus(), seen=seen, max_shared_pictures=0.34)["success"]


def test_too_many_captions_shared_between_splits():
    captions = corpus()
    captions.loc[[8, 9], ["raw", "text"]] = captions.loc[[0, 1], ["raw", "text"]].to_numpy()
    message = failure(captions)
    assert message == (
        "'captions shared by train' (at most 25% of the captions of train stand in another "
        "split as well): 2 of 4 rows, "
        "first a0#0, a0#1 (corpora in params.yaml: max_shared_captions); 'captions shared by test' (at most 25% of the captions of test "
        "stand in another split as well): "
        "2 of 4 rows, first c0#0, c0#1 (corpora in params.yaml: max_shared_captions)"
    )


def test_few_captions_shared_between_splits_are_no_fault():
    captions = corpus()
    captions.loc[8, ["raw", "text"]] = captions.loc[0, ["raw", "text"]].to_numpy()
    assert validated(captions)["success"]


def test_a_corpus_without_rows():
    assert failure(corpus()[:0]).startswith(
        "'rows' (there are captions): found 0; 'every split there'"
    )


def test_a_missing_column_is_named():
    with pytest.raises(
        UserError, match=r"captions\.parquet has no column text; it needs image_id, capt"
    ):
        validated(corpus().drop(columns="text"))


def test_nothing_is_printed(capfd):
    validated(corpus())
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A dataset `tiny` of three images and its corpus, in the working directory."""
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    row = vars(OPTIONS) | {
        "dataset": "tiny",
        "split": "official",
        "min_images_per_split": 1,
        "max_rejected": 0.2,
    }
    drawn = {"tiny": {"source": "scenes", "args": {"images": 8, "size": 64, "seed": 1}}}
    tiny = {"features": {}, "variants": {}, "datasets": drawn, "corpora": {"tiny": row}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | tiny))
    rows = [
        (name, f"{name}#{n}", f"A {name} no {n}.", False, split)
        for name, split in (("dog", "train"), ("cat", "val"), ("sea", "test"))
        for n in range(2)
    ]
    folder = tmp_path / "data" / "raw" / "tiny"
    shades = enumerate(("dog", "cat", "sea"))
    put_pictures(folder, {name: Image.new("RGB", (4, 4), (n, 0, 0)) for n, name in shades})
    columns = ["image_id", "caption_id", "raw", "undecodable", "split_official"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "captions.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_writes_corpus_result_and_docs(workspace):
    from stages.clean import main

    main("tiny")
    captions = pd.read_parquet("data/corpora/tiny/captions.parquet")
    assert list(captions["text"]) == [
        "a dog no 0",
        "a dog no 1",
        "a cat no 0",
        "a cat no 1",
        "a sea no 0",
        "a sea no 1",
    ]
    assert list(pd.read_parquet("data/corpora/tiny/rejected.parquet")["reason"]) == []
    assert json.loads((workspace / "data/validation/tiny/results.json").read_text())["images"] == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert (workspace / "data/validation/tiny/index.html").exists()


@pytest.mark.parametrize("fault", ["rejected", "validation"])
def test_a_refused_corpus_leaves_no_output_but_what_shows_why(workspace, fault):
    from stages.clean import main

    raw = workspace / "data" / "raw" / "tiny"
    if fault == "rejected":
        exchange(raw, dog=b"")
        message = (
            r"2 of 6 rows \(33.3%\) would be set aside, max_rejected allows 20.0%: image "
            r"broken: empty file \(2\)"
        )
    else:
        exchange(raw, dog=pictures_of(raw)["sea"])
        message = r"'no image in two splits' .*: 4 of 6 rows, first dog#0, dog#1, sea#0, sea#1"
    with pytest.raises(UserError, match=message) as error:
        main("tiny")
    names = ["index.html", "rejected.parquet"] if fault == "validation" else ["rejected.parquet"]
    shown = workspace / ".dvc/tmp/captionlab/refused/tiny"
    assert sorted(path.name for path in shown.iterdir()) == names
    place = " and ".join(reversed(names)) + " in .dvc/tmp/captionlab/refused/tiny"
    assert str(error.value).endswith(f"; see {place}")
    assert len(pd.read_parquet(shown / "rejected.parquet")) == 2 * (fault == "rejected")
    if fault == "validation":
        assert '<td class="no">failed</td>' in (shown / "index.html").read_text()
    assert sorted(path.name for path in workspace.iterdir()) == [".dvc", "data", "params.yaml"]
    assert not [path for path in workspace.rglob("*") if path.name.endswith(".part")]
    written = [path for path in (workspace / "data").rglob("*") if path.is_file()]
    assert {path.relative_to(workspace).parts[:3] for path in written} == {("data", "raw", "tiny")}


def test_a_corpus_that_is_accepted_forgets_why_it_was_refused(workspace):
    from stages.clean import main

    raw = workspace / "data" / "raw" / "tiny"
    before = pictures_of(raw)["dog"]
    exchange(raw, dog=b"")
    with pytest.raises(UserError, match="would be set aside"):
        main("tiny")
    exchange(raw, dog=before)
    main("tiny")
    assert not (workspace / ".dvc/tmp/captionlab/refused/tiny").exists()
