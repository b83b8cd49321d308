"""Cleaning and splitting captions, and the reason why each row is set aside."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image
from pyarrow.parquet import read_schema

from pipeline.cleaning.clean import RAW_COLUMNS, clean_file, clean_text, raw_rows
from pipeline.cleaning.image_check import (
    Picture,
    Pictures,
    look_at_images,
    write_picture_table,
)
from pipeline.core.errors import UserError
from pipeline.data import corpus
from pipeline.data.corpus import read_captions
from pipeline.images.reading import read_image
from tests.pictures import png, put_pictures


def options(**changes):
    values = {
        "split": "official",
        "language": "en",
        "lower": True,
        "punctuation": "drop",
        "one_letter_words": "keep",
    }
    bounds = {
        "min_words": 1,
        "max_words": 5,
        "max_rejected": 1.0,
        "min_images_per_split": 1,
        "max_shared_captions": 1.0,
        "max_shared_pictures": 0.0,
        "max_uneven_captions": 0.01,
    }
    return SimpleNamespace(**{**values, **bounds, **changes})


def raw(*rows):
    """Return the raw table of the rows (image_id, raw, split)."""
    table = pd.DataFrame(rows, columns=["image_id", "raw", "split_official"]).astype("str")
    numbers = table.groupby("image_id").cumcount().astype(str)
    table = table.assign(
        caption_id=table["image_id"] + "#" + numbers,
        undecodable=False,
    )
    return table[[*RAW_COLUMNS, "split_official"]]


def fine(table):
    return {image: Picture(None, image) for image in table["image_id"]}


def clean(table, pictures, options):
    """Return what the stage makes of this index: the rows kept and the rows set aside."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        table.to_parquet(folder / "captions.parquet", index=False)
        (folder / "out").mkdir()
        clean_file(folder, pictures, options, folder / "out")
        return read_captions(folder / "out/captions.parquet"), pd.read_parquet(
            folder / "out/rejected.parquet"
        )


def reasons(table, pictures=None, **changes):
    _, rejected = clean(table, pictures or fine(table), options(**changes))
    return dict(zip(rejected["caption_id"], rejected["reason"], strict=True))


def test_a_caption_with_any_kind_of_line_break_becomes_one_line():
    text = "a dog\r\nruns\u2028on\u2029the\x85beach\tat\x0bsix\x00 o'clock \xa0 "
    assert clean_text(text, options(punctuation="keep")) == "a dog runs on the beach at six o'clock"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lower": False, "punctuation": "keep"}, "A man's T-shirt, no. 7 : a café !"),
        ({"lower": True, "punctuation": "keep"}, "a man's t-shirt, no. 7 : a café !"),
        ({"lower": True, "punctuation": "drop"}, "a mans tshirt no 7 a café"),
        ({"lower": True, "punctuation": "drop", "one_letter_words": "drop"}, "mans tshirt no café"),
        ({"lower": True, "punctuation": "letters"}, "a man s t shirt no a caf"),
        (
            {"lower": False, "punctuation": "letters", "one_letter_words": "drop"},
            "man shirt no caf",
        ),
        (
            {"lower": False, "punctuation": "keep", "one_letter_words": "drop"},
            "man's T-shirt, no. café",
        ),
    ],
)
def test_a_caption_is_cleaned_as_configured(changes, expected):
    assert clean_text("A man's  T-shirt, no. 7 : a café !", options(**changes)) == expected


def test_letters_of_other_scripts_and_their_marks_are_no_punctuation():
    assert clean_text("कुत्ता, 狗。e\u0301_x!", options()) == "कुत्ता 狗e\u0301x"


def test_the_rows_kept_have_the_columns_of_the_row_trail():
    table = raw(("a", "A dog .", "train"), ("a", "Two dogs", "train"), ("b", "The sea", "test"))
    captions, rejected = clean(table, fine(table), options())
    assert captions.to_dict("split")["data"] == [
        ["a", "a#0", "A dog .", "a dog", "train"],
        ["a", "a#1", "Two dogs", "two dogs", "train"],
        ["b", "b#0", "The sea", "the sea", "test"],
    ]
    assert list(captions) == ["image_id", "caption_id", "raw", "text", "split"]
    assert list(rejected) == ["image_id", "caption_id", "raw", "split", "reason"]
    assert len(rejected) == 0


def test_every_row_set_aside_has_its_reason():
    table = raw(
        ("a", "A dog", "train"), ("a", "a DOG!", "train"), ("a", "...", "train"), ("a", "dog", "train"),
        ("a", "one two three four five six", "train"), ("a", "caf\\xe9 noir", "train"), ("a", "caf\ufffd noir", "train"),
        ("b", "the sea", None), ("c", "a car", "val"), ("d", "a bus", "val"), ("e", "a cat", "test"), ("f", "a dog", "test"),
    )  # fmt: skip
    table.loc[5, "undecodable"] = True
    pictures = fine(table) | {"d": Picture("image broken: truncated", None)}
    del pictures["c"], pictures["e"]
    captions, rejected = clean(table, pictures, options(min_words=2))
    assert list(captions["caption_id"]) == ["a#0", "f#0"]
    assert dict(zip(rejected["caption_id"], rejected["reason"], strict=True)) == {
        "a#1": "duplicate",
        "a#2": "empty",
        "a#3": "too short",
        "a#4": "too long",
        "a#5": "undecodable",
        "a#6": "undecodable",
        "b#0": "no split",
        "c#0": "image missing",
        "d#0": "image broken: truncated",
        "e#0": "image missing",
    }


def test_a_caption_that_is_no_text_at_all_is_empty():
    assert reasons(raw(("a", None, "train"), ("b", "", "train"))) == {
        "a#0": "empty",
        "b#0": "empty",
    }


def test_the_length_is_counted_in_cleaned_words():
    table = raw(("a", "a b c d e f", "train"), ("b", "one , two , three , four", "train"))
    assert reasons(table, one_letter_words="drop", max_words=4) == {"a#0": "empty"}


def test_the_same_text_of_another_image_is_no_duplicate():
    assert reasons(raw(("a", "a dog", "train"), ("b", "a dog", "train"))) == {}


def test_a_rejected_row_does_not_make_a_later_one_a_duplicate():
    table = raw(("a", "a dog", "train"), ("a", "A dog", "train"))
    table.loc[0, "undecodable"] = True
    assert reasons(table) == {"a#0": "undecodable"}


def test_too_many_rows_set_aside_stop_with_counts_and_rows():
    table = raw(
        ("a", "a dog", "train"),
        ("a", "a dog", "train"),
        ("b", "", "train"),
        ("c", "", "val"),
        ("d", "a sea", "test"),
    )
    assert reasons(table, max_rejected=0.6) == {"a#1": "duplicate", "b#0": "empty", "c#0": "empty"}
    with pytest.raises(UserError) as error:
        clean(table, fine(table), options(max_rejected=0.59))
    assert str(error.value) == (
        "3 of 5 rows (60.0%) would be set aside, max_rejected allows 59.0%: empty (2), "
        "duplicate (1); "
        "first rows a#1: duplicate; b#0: empty; c#0: empty; correct the captions or raise max_rejected"
    )


def test_an_unknown_split_scheme_lists_those_there_are():
    table = raw(("a", "a dog", "train")).assign(split_last="train")
    with pytest.raises(
        UserError,
        match=r"^split: 'karpathy' \(corpora in params\.yaml\) is no split scheme of this dataset: "
        r"there are official, last$",
    ):
        clean(table, fine(table), options(split="karpathy"))


def test_a_missing_column_is_named(tmp_path):
    table = raw(("a", "a dog", "train")).drop(columns="raw")
    table.to_parquet(tmp_path / "captions.parquet")
    with pytest.raises(
        UserError, match=r"captions.parquet has no column raw; it needs image_id, caption_id"
    ):
        raw_rows(tmp_path, options())
    with pytest.raises(
        UserError, match=r"captions.parquet has no column raw, text, split; it needs image_id"
    ):
        read_captions(tmp_path / "captions.parquet")


def test_a_file_that_is_missing_or_no_parquet_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"captions.parquet is not there: run dvc repro"):
        read_captions(tmp_path / "captions.parquet")
    (tmp_path / "captions.parquet").write_text("image_id,raw")
    with pytest.raises(UserError, match=r"captions.parquet is not a readable Parquet file"):
        read_captions(tmp_path / "captions.parquet")


def test_a_file_whose_middle_is_damaged_is_one_line(tmp_path):
    path = tmp_path / "captions.parquet"
    raw(*((f"i{n}", f"a dog number {n}", "train") for n in range(500))).to_parquet(
        path, index=False, compression="zstd"
    )
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"captions.parquet is not a readable Parquet file"):
        list(raw_rows(tmp_path, options()))


def test_every_picture_is_looked_at_once(tmp_path, monkeypatch):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    bmp = io.BytesIO()
    red.save(bmp, "BMP")
    pictures = {"a": png(red), "b": bmp.getvalue(), "c": png(blue), "d": b"", "e": png(red)[:50]}
    calls = []
    monkeypatch.setattr(
        "pipeline.cleaning.image_check.read_image",
        lambda content: calls.append(content) or read_image(content),
    )
    looks = look_at_images(put_pictures(tmp_path, pictures))
    assert sorted(calls) == sorted(pictures.values())
    assert [looks[image].problem for image in "abc"] == [None, None, None]
    assert looks["d"].problem == "image broken: empty file"
    assert looks["e"].problem.startswith("image broken: ")
    assert looks["a"].digest == looks["b"].digest != looks["c"].digest


@pytest.mark.parametrize("count", [3, 200])
def test_the_table_of_pictures_is_sorted_and_the_same_in_parts(tmp_path, monkeypatch, count):
    looks = [(f"{7 * n % 211}.jpg", Picture(None, f"{n:064x}")) for n in range(count)]
    looks.append(("broken.jpg", Picture("image broken: truncated", None)))
    expected = pd.DataFrame(
        sorted((image, look.digest) for image, look in looks), columns=["image_id", "digest"]
    )
    expected.to_parquet(tmp_path / "whole.parquet", index=False)
    write_picture_table(Pictures(looks), tmp_path / "images.parquet")
    assert (tmp_path / "images.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    monkeypatch.setattr("pipeline.cleaning.image_check.ROWS", 50)
    write_picture_table(Pictures(looks), tmp_path / "parts.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "parts.parquet"), expected)


def shuffled():
    """Return 40 rows of 8 images in no order.

    Duplicates are far apart, and some rows are set aside for each reason.
    """
    texts = [
        "A dog.",
        "a DOG",
        "",
        "one two three four five six",
        "The cat sits!",
        "so \ufffd",
        None,
    ]
    rows = [(f"i{n % 8}", texts[n * 5 % 7], ("train", "val", None)[n % 8 % 3]) for n in range(40)]
    return raw(*rows)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_a_corpus_is_cleaned_alike_however_many_rows_at_a_time(tmp_path, monkeypatch, rows):
    table = shuffled()
    table.to_parquet(tmp_path / "captions.parquet", index=False)
    pictures = fine(table) | {"i2": Picture("image broken: odd", None)}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    rejected = clean_file(tmp_path, pictures, options(), tmp_path / "whole")
    assert set(rejected["reason"]) == {
        "duplicate", "empty", "image broken: odd", "no split", "too long", "undecodable",
    }  # fmt: skip
    monkeypatch.setattr(corpus, "ROWS", rows)
    pd.testing.assert_frame_equal(
        clean_file(tmp_path, pictures, options(), tmp_path / "parts"), rejected
    )
    for file in ("captions.parquet", "rejected.parquet"):
        whole, parts = (tmp_path / name / file for name in ("whole", "parts"))
        pd.testing.assert_frame_equal(pd.read_parquet(parts), pd.read_parquet(whole))
        assert read_schema(parts).equals(read_schema(whole), check_metadata=True)


@pytest.mark.parametrize(
    ("text", "split"), [("A dog.", None), (None, "train"), ("", "val"), ("so \ufffd", "test")]
)
def test_parts_that_are_set_aside_whole_change_nothing_of_the_others(
    tmp_path, monkeypatch, text, split
):
    """The first part, which gives the file its column types, and the last two are set aside."""
    faulty, kept = (
        [("a", text, split)] * 3,
        [("b", "The sea!", "train"), ("c", "A cat", "val"), ("d", "A car", "test")],
    )
    table = raw(*faulty, *kept, *faulty, *faulty)
    monkeypatch.setattr(corpus, "ROWS", 3)
    captions, rejected = clean(table, fine(table), options())
    alone, _ = clean(table[3:6], fine(table), options())
    pd.testing.assert_frame_equal(captions, alone)
    assert list(captions["text"]) == ["the sea", "a cat", "a car"]
    assert list(rejected["caption_id"]) == [f"a#{n}" for n in range(9)]
    assert rejected["reason"].nunique() == 1


def test_a_dataset_without_rows_is_a_corpus_without_rows(tmp_path):
    table = shuffled()
    table.iloc[:0].to_parquet(tmp_path / "captions.parquet", index=False)
    (tmp_path / "out").mkdir()
    assert len(clean_file(tmp_path, {}, options(), tmp_path / "out")) == 0
    assert list(read_captions(tmp_path / "out/captions.parquet")) == corpus.COLUMNS


def test_another_language_is_another_table_even_where_it_changes_no_caption(tmp_path):
    """The stages that read the table do not declare the key of params.yaml."""
    shuffled().to_parquet(tmp_path / "captions.parquet", index=False)
    tables = []
    for language in ("en", "nl"):
        (tmp_path / language).mkdir()
        table = tmp_path / language / "captions.parquet"
        clean_file(tmp_path, fine(shuffled()), options(language=language), table.parent)
        assert read_schema(table).metadata[b"language"].decode() == language
        tables.append(table)
    pd.testing.assert_frame_equal(*map(read_captions, tables))
    assert tables[0].read_bytes() != tables[1].read_bytes()


@pytest.mark.parametrize("changes", [{"split": "other"}, {}])
def test_what_a_dataset_lacks_is_said_before_a_row_is_read(tmp_path, changes):
    table = shuffled().drop(columns=[] if changes else ["raw"])
    table.to_parquet(tmp_path / "captions.parquet", index=False)
    with pytest.raises(UserError, match="no split scheme" if changes else "has no column raw"):
        raw_rows(tmp_path, options(**changes))


@pytest.mark.parametrize(
    ("published", "cleaned"),
    [
        ("A dog \u2764\ufe0f runs", "a dog runs"),
        ("A dog\u2764\ufe0f runs", "a dog runs"),
        ("Press 1\ufe0f\u20e3 now", "press 1\u20e3 now"),
        ("Press #\ufe0f\u20e3 now", "press now"),
        ("cafe\u0301 नमस्ते।", "cafe\u0301 नमस्ते"),
    ],
)
def test_what_chooses_a_picture_of_an_emoji_is_no_word(published, cleaned):
    assert clean_text(published, options(lower=True, punctuation="drop")) == cleaned
