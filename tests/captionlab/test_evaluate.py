"""`captionlab.evaluate` from Python: every form of captions, scores per image, and the comparison
of two systems."""

import json

import numpy as np
import pandas as pd
import pytest

from captionlab import Evaluation, UserError, evaluate

SAID = {"1": "a dog runs", "2": "two cats", "3": "a red ball"}
MEANT = {
    "1": ["the dog runs", "a dog"],
    "2": ["two cats sleep"],
    "3": ["a ball", "the red ball", "a toy"],
}
ROWS = [{"image_id": int(i), "caption": text} for i, text in SAID.items()]
REFERENCE_ROWS = [{"image_id": int(i), "text": t} for i, texts in MEANT.items() for t in texts]
COCO = {
    "images": [{"id": int(i), "file_name": f"COCO_{i}.jpg"} for i in MEANT],
    "annotations": [{"image_id": r["image_id"], "caption": r["text"]} for r in REFERENCE_ROWS],
}


def scored(predictions, references=MEANT, metrics="bleu,rouge_l"):
    return evaluate(predictions, references, metrics, "raw")


PREDICTIONS = {
    "texts": SAID,
    "numbers as ids": {int(i): text for i, text in SAID.items()},
    "lists of one": {i: (text,) for i, text in SAID.items()},
    "rows": ROWS,
    "COCO's annotations": {"annotations": ROWS},
    "a DataFrame": pd.DataFrame(ROWS),
    "a DataFrame with a column text": pd.DataFrame(ROWS).rename(columns={"caption": "text"}),
    "files": [{"file": f"photos/{i}.jpg", "caption": text} for i, text in SAID.items()],
}
REFERENCES = {
    "texts": MEANT,
    "rows": REFERENCE_ROWS,
    "COCO's JSON": COCO,
    "a DataFrame": pd.DataFrame(REFERENCE_ROWS),
    "a DataFrame of arrays": pd.DataFrame(
        [{"image_id": i, "captions": np.array(texts)} for i, texts in MEANT.items()]
    ),
}


@pytest.mark.parametrize("form", PREDICTIONS)
def test_predictions_score_alike_in_every_form(form):
    assert scored(PREDICTIONS[form]) == scored(SAID)


@pytest.mark.parametrize("form", REFERENCES)
def test_references_score_alike_in_every_form(form):
    assert scored(SAID, REFERENCES[form]) == scored(SAID)


def test_a_file_is_the_image_that_coco_calls_so():
    files = [{"file": f"photos/COCO_{i}.jpg", "caption": text} for i, text in SAID.items()]
    assert scored(files, COCO) == scored(SAID)


def test_a_file_scores_like_what_it_holds(tmp_path):
    predictions, references = tmp_path / "p.json", tmp_path / "r.json"
    predictions.write_text(json.dumps(SAID))
    references.write_text(json.dumps(MEANT))
    assert scored(str(predictions), references) == scored(SAID)


def test_a_split_and_partial_choose_images():
    rows = pd.DataFrame(REFERENCE_ROWS).assign(
        split=["test", "test", "val", "test", "test", "test"]
    )
    found = evaluate({"1": "a dog"}, rows, ["rouge_l"], "raw", split="test", partial=True)
    assert (found.images, found.left_out, found.references_per_image) == (1, 1, "2")


WRONG = {
    "no caption": (pd.DataFrame({"image_id": [1], "words": ["x"]}),
        "predictions, item 0: expected image_id and caption (or text), found image_id, words"),
    "a missing text": (pd.DataFrame({"image_id": [1], "caption": [None]}),
        "predictions, item 0: a caption is a text, or a list of texts, found null"),
    "texts without ids": (["a dog"],
        "predictions, item 0: expected an object with image_id and caption, found a text"),
    "nothing": ({}, "predictions is empty: give a path, a dict by image_id, a DataFrame or a list "
        "of rows (image_id, caption)"),
    "a number": (5, "predictions: expected a path, a dict by image_id, a DataFrame or a list of rows "
        "(image_id, caption), found one of type int"),
    "two captions": ({"1": ["a", "b"]}, "predictions, key '1': image '1' has two predictions: give "
        "one caption an image"),
    "one image twice": ([*ROWS, {"image_id": "1", "caption": "x"}],
        "predictions, item 3: image '1' has two predictions: give one caption an image"),
    "an unknown image": ({**SAID, "4": "x"}, "1 of 4 predictions are for images without "
        "references: the first is '4', an image with references is '1': leave them out, or score "
        "the others with partial=True"),
    "too few": ({"1": "a dog"}, "2 of 3 images have no prediction, the "
        "first is '2': partial=True scores the others, split= chooses images by a column `split`"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line(case):
    predictions, message = WRONG[case]
    with pytest.raises(UserError) as error:
        scored(predictions)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("metrics", "protocol", "message"),
    [
        ("blue", "raw", r"^unknown metric 'blue' \(did you mean 'bleu'\?\): there are bleu, "),
        ("bleu", "rwa", r"^unknown protocol 'rwa' \(did you mean 'raw'\?\): there are standard, "),
        ("bleu", "beam-3", r"^unknown protocol 'beam-3': there are standard, raw, cleaned-ref"),
    ],
)
def test_an_unknown_metric_or_protocol_is_one_line(metrics, protocol, message):
    with pytest.raises(UserError, match=message):
        evaluate(SAID, MEANT, metrics, protocol)


def test_the_scores_of_images_average_to_the_score_of_the_set():
    """ROUGE-L of "a dog" against itself is 1. "cat" against "a cat" has precision 1 and recall 1/2;
    with beta 1.2, ROUGE-L is 2.44 * 0.5 / (0.5 + 1.44) = 0.62887."""
    found = evaluate({"b": "cat", "a": "a dog"}, {"a": ["a dog"], "b": ["a cat"]}, "rouge_l", "raw")
    assert found.per_image.image_id.tolist() == ["a", "b"]
    assert found.per_image.rouge_l.tolist() == pytest.approx([1, 1.22 / 1.94])
    assert found.scores["rouge_l"] == pytest.approx((1 + 1.22 / 1.94) / 2)


def test_the_table_has_a_row_per_score_and_no_interval_for_a_count():
    table = scored(SAID, metrics="diversity,rouge_l").to_frame().set_index("metric")
    assert list(table.columns) == ["value", "low", "high"]
    assert table.value["vocabulary"] == 7  # The words: a dog runs two cats red ball.
    assert np.isnan(table.low["vocabulary"])
    assert table.low["rouge_l"] <= table.value["rouge_l"] <= table.high["rouge_l"]


def test_an_evaluation_reads_as_a_table_here_and_in_a_notebook():
    found = scored(SAID)
    assert isinstance(found, Evaluation)
    lines = repr(found).splitlines()
    assert lines[0].split() == ["score", "value", "95%", "interval", "images"]
    assert f"{found.scores['rouge_l']:.4f}" in found._repr_html_()


def steady(better):
    """Score four captions of two words. Each shares both words with its reference if `better`,
    otherwise one."""
    said = {str(n): f"w{n} {'v' if better else 'x'}{n}" for n in range(4)}
    return evaluate(said, {str(n): [f"w{n} v{n}"] for n in range(4)}, "rouge_l", "raw")


def test_a_difference_that_every_image_shows_has_no_width_and_no_chance():
    """ROUGE-L is 1 on every image for one system and 1/2 for the other. The difference is 1/2 in
    every resample."""
    comparison = steady(True).compare(steady(False))
    (row,) = comparison.differences
    assert row == ("rouge_l", 1, pytest.approx(0.5), *[pytest.approx(0.5)] * 3, 0.0)
    assert repr(comparison).splitlines()[1].split() == [
        *("rouge_l", "1.0000", "0.5000", "+0.5000", "+0.5000", "-", "+0.5000", "<", "0.002")
    ]
    assert "0.5000" in comparison._repr_html_()


def test_a_system_differs_from_itself_by_nothing():
    table = scored(SAID).compare(scored(SAID)).to_frame().set_index("metric")
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert (table.p == 1).all()


def test_counts_are_compared_without_an_interval():
    table = scored(SAID, metrics="diversity").compare(
        scored({**SAID, "2": "a dog"}, metrics="diversity")
    )
    row = table.to_frame().set_index("metric").loc["vocabulary"]
    assert (row.this, row.other, row.difference) == (7, 5, 2)
    assert row[["low", "high", "p"]].isna().all()
    assert [line.split() for line in repr(table).splitlines() if line.startswith("voc")] == [
        ["vocabulary", "7", "5", "+2", "n/a", "n/a"]
    ]


def test_the_p_value_is_twice_the_share_of_resamples_that_turn_the_difference():
    """This system wins the first image by 1/2 and loses the second by 1/4. The sign changes only in
    resamples that hold the second image twice, about one in four."""
    meant = {"1": ["a b"], "2": ["a b c d"]}
    this = evaluate({"1": "a b", "2": "a b x y"}, meant, "rouge_l", "raw")
    other = evaluate({"1": "a x", "2": "a b c y"}, meant, "rouge_l", "raw")
    (row,) = this.compare(other).differences
    turned = (this.resamples["rouge_l"] - other.resamples["rouge_l"] < 0).mean()
    assert row.p == pytest.approx(2 * turned)
    assert 0.4 < row.p < 0.6
    assert (row.low, row.high) == pytest.approx((-0.25, 0.5))


def test_systems_scored_on_other_references_or_by_another_protocol_cannot_be_paired():
    others = [
        evaluate(SAID, {**MEANT, "1": ["a dog"]}, "rouge_l", "raw"),
        evaluate(SAID, MEANT, "rouge_l", "cleaned-references"),
    ]
    for other in others:
        with pytest.raises(UserError, match=r"^the two systems cannot be paired \(3 images, "):
            scored(SAID).compare(other)
