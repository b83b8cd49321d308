"""Captions that are not English, or have no spaces between words, never get a wrong figure.

They get n/a with the reason.
"""

import pytest

from captionlab.evaluation import evaluate
from pipeline.core.java import use_java
from pipeline.metrics.shared.base import ReferenceSet
from pipeline.metrics.shared.languages import ENGLISH, WORDS, why_not
from pipeline.scoring.ptb import ptb_lines

pytestmark = pytest.mark.usefixtures("restore_java")

LATIN = {
    "German": ["Ein brauner Hund läuft über das Gras", "Der Hund rennt mit einem Ball"],
    "French": ["Un chien brun court dans l'herbe", "Le chien court avec une balle"],
    "Spanish": ["Un perro corre en el parque con una pelota", "El perro marrón corre"],
    "Dutch": ["Een bruine hond rent op het gras", "De hond rent met een bal"],
    "Polish": ["Pies biega w parku z piłką", "Brązowy pies na trawie"],
}
OTHER = {
    "Hindi": ["एक कुत्ता घास पर दौड़ता है।", "एक भूरा कुत्ता ।"],
    "Arabic": ["كلب بني، يركض على العشب.", "كلب يركض"],
    "Russian": ["Коричневая собака бежит по траве", "Собака бежит с мячом"],
}
UNPARTED = {
    "Chinese": ["一只狗在草地上奔跑", "一只棕色的狗在公园里跑步"],
    "Japanese": ["犬が草の上を走っている", "茶色い犬が公園で走る"],
    "Thai": ["สุนัขวิ่งบนหญ้า", "สุนัขสีน้ำตาลวิ่ง"],
}
TEXTS = {
    "English": ["A brown dog runs on the grass", "The dog runs with a ball"],
    "words alone": ["red cube", "dog running", "blue floor"],
    "an English name of a place": ["A man in Los Angeles", "the Rio de la Plata and a boat"],
}


def of(texts: list[str]) -> ReferenceSet:
    return ReferenceSet("1", {"1": [text.lower() for text in texts]})


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_nothing_is_said_against_english(texts: list[str]) -> None:
    assert why_not(ENGLISH, of(texts)) == ""
    assert why_not(WORDS, of(texts)) == ""


@pytest.mark.parametrize("texts", {**LATIN, **OTHER}.values(), ids=[*LATIN, *OTHER])
def test_another_language_has_words_that_no_english_metric_reads(texts: list[str]) -> None:
    assert why_not(ENGLISH, of(texts)).startswith("it reads English, and ")
    assert why_not(WORDS, of(texts)) == ""


@pytest.mark.parametrize("texts", UNPARTED.values(), ids=UNPARTED)
def test_a_script_without_spaces_has_no_words(texts: list[str]) -> None:
    reason = "the references have no spaces between their words: name their language, or part them, in captions too"
    assert why_not(WORDS, of(texts)) == reason


def test_parted_chinese_has_words() -> None:
    assert why_not(WORDS, of(["一只 狗 在 草地 上 奔跑", "一只 棕色 的 狗"])) == ""


@pytest.mark.timeout(60)
def test_a_chinese_caption_is_not_scored_as_one_word() -> None:
    said, meant = {"1": "一只狗在草地上跑"}, {"1": UNPARTED["Chinese"]}
    found = evaluate(said, meant, "bleu,cider,rouge_l,meteor", "raw")
    assert found.scores == {}
    reason = "the references have no spaces between their words: name their language, or part them, in captions too"
    assert found.unavailable["bleu"] == found.unavailable["cider"] == reason


def test_german_has_no_bad_endings_and_no_english_words() -> None:
    said, meant = {"1": "ein hund auf der"}, {"1": [text.lower() for text in LATIN["German"]]}
    found = evaluate(said, meant, "bleu,meteor,gender,degeneration", "raw")
    assert set(found.unavailable) == {"meteor", "gender"}
    assert set(found.scores) >= {"bleu_1", "collapse", "repetition"}
    assert "bad_endings" not in found.scores
    assert found.missing["bad_endings"] == (
        "it knows the words that end no English caption, and the references are not English"
    )
    assert "bad_endings" not in found.per_image


@pytest.mark.timeout(60)
def test_marks_of_other_scripts_are_punctuation_and_english_ones_are_as_in_the_original() -> None:
    use_java()
    given = [
        "एक कुत्ता है।",
        "كلب ، يركض؟",
        "犬が走る、速い。",
        "A dog / cat & mouse (wet)",
        "“a” – b",
    ]
    assert ptb_lines(given) == [
        "एक कुत्ता है",
        "كلب يركض",
        "犬が走る 速い",
        "a dog / cat & mouse -lrb- wet -rrb-",
        "a b",
    ]
