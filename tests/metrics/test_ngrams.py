"""The worked examples of texts.py, ngrams.py and cider.py, number by number."""

import math

import pytest

from pipeline.metrics import cider
from pipeline.metrics.shared.ngrams import count, grams, matches

REFERENCES = [["a red dog", "a dog"], ["a red cat"]]
CAPTIONS = ["a red red dog", "a bird"]


def test_texts_stand_one_after_another_as_numbers_of_their_words() -> None:
    counted = count(REFERENCES)
    assert counted.vocabulary == {"a": 0, "red": 1, "dog": 2, "cat": 3}
    assert counted.texts.words.tolist() == [0, 1, 2, 0, 2, 0, 1, 3]
    assert counted.texts.starts.tolist() == [0, 3, 5, 8]
    assert counted.texts.firsts.tolist() == [0, 2, 3]
    ((_, part),) = counted.texts.parts()
    assert part.text.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert part.left.tolist() == [3, 2, 1, 2, 1, 3, 2, 1]
    assert part.image.tolist() == [0, 0, 1]


def test_the_n_grams_that_several_images_have_are_counted_by_order() -> None:
    found = [(f.keys.tolist(), f.images.tolist()) for f in count(REFERENCES).frequent]
    assert found == [([0, 1], [2, 2]), ([1], [2]), ([], []), ([], [])]


def test_the_n_grams_of_captions_have_a_key_and_a_count_by_text() -> None:
    counted = count(REFERENCES)
    said, size = counted.number(CAPTIONS)
    ((_, part),) = said.parts()
    one, two, *_ = grams(part, counted, size)
    assert size == 5
    assert one.keys.tolist() == [0, 1, 2, 5, 9]
    assert one.counts.tolist() == [1, 2, 1, 1, 1]
    assert one.images.tolist() == [2, 2, 1, 2, 1]
    assert two.keys.tolist() == [1, 6, 7, 19]
    assert two.counts.tolist() == [1, 1, 1, 1]


def test_a_match_is_an_n_gram_that_a_reference_shares_with_its_images_caption() -> None:
    counted = count(REFERENCES)
    said, size = counted.number(CAPTIONS)
    ((_, part),), ((_, references),) = said.parts(), counted.texts.parts()
    _, match = next(matches(part, references, counted, size))
    assert match.gram.tolist() == [0, 0, 1, 2, 2, 3]
    assert match.reference.tolist() == [0, 1, 0, 0, 1, 2]
    assert match.counts.tolist() == [1, 1, 1, 1, 1, 1]


def test_the_cider_of_a_word_in_one_image_is_one_times_the_penalty_for_length() -> None:
    """Only "dog" has weight. One reference is as long as the caption, one is two words longer."""
    scores = cider.score(
        {"0": "red dog", "1": "a"}, {"0": ["a dog", "a red a dog"], "1": ["a red cat"]}
    )
    expected = 10 / 4 / 2 * (1 + math.exp(-4 / 72))
    assert scores.per_image["cider"]["0"] == pytest.approx(expected)
