"""The word tokenizer: words to ids and back, with ids worked out by hand."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.decoders.shared import tokenizers
from pipeline.decoders.shared.tokenizers import Special, Tokenizer, word_tokenizer

# Counts: a 3; cat, dog, runs, the 2; 's, beach, man, on, sits 1.
CORPUS = ["a dog runs on a beach", "a cat runs", "the dog sits", "the man 's cat"]


def test_the_commonest_words_come_first_and_ties_are_alphabetical() -> None:
    vocabulary = {
        "<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3,
        "a": 4, "cat": 5, "dog": 6, "runs": 7, "the": 8, "'s": 9, "beach": 10, "man": 11, "on": 12, "sits": 13,
    }  # fmt: skip
    tokenizer = word_tokenizer(CORPUS, 1)
    assert tokenizer.inner.get_vocab() == vocabulary
    assert tokenizer.special == Special(pad=0, start=1, end=2, unknown=3)


@pytest.mark.parametrize(
    ("min_count", "words"), [(2, ["a", "cat", "dog", "runs", "the"]), (3, ["a"])]
)
def test_a_word_needs_min_count_occurrences(min_count: int, words: list[str]) -> None:
    tokenizer = word_tokenizer(CORPUS, min_count)
    assert [tokenizer.inner.id_to_token(n) for n in range(4, len(tokenizer))] == words


def test_the_order_of_the_captions_does_not_matter() -> None:
    assert (
        word_tokenizer(CORPUS, 1).inner.to_str() == word_tokenizer(CORPUS[::-1], 1).inner.to_str()
    )


def test_a_caption_is_encoded_between_start_and_end_and_rare_words_become_unknown() -> None:
    tokenizer = word_tokenizer(CORPUS, 2)
    assert tokenizer.encode(["the cat sits", "a", "", "zebra  runs"]) == [
        [1, 8, 5, 3, 2],
        [1, 4, 2],
        [1, 2],
        [1, 3, 7, 2],
    ]


def test_decoding_undoes_encoding_and_drops_special_tokens() -> None:
    tokenizer = word_tokenizer(CORPUS, 1)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(CORPUS)] == CORPUS
    assert tokenizer.decode([8, 6, 2, 0, 0]) == "the dog"
    assert tokenizer.decode([]) == ""


def test_words_are_split_at_white_space_only() -> None:
    tokenizer = word_tokenizer(["dog's e-mail, garçon 漢字"], 1)
    (ids,) = tokenizer.encode(["dog's e-mail, garçon\t漢字"])
    assert [tokenizer.inner.id_to_token(i) for i in ids] == [
        "<start>",
        "dog's",
        "e-mail,",
        "garçon",
        "漢字",
        "<end>",
    ]


def test_case_is_kept() -> None:
    tokenizer = word_tokenizer(["Dog dog dog"], 1)
    assert tokenizer.encode(["Dog dog DOG"]) == [[1, 5, 4, 3, 2]]


def test_a_word_spelled_like_a_special_token_gets_no_second_id() -> None:
    assert sorted(word_tokenizer(["<end> dog <pad>"], 1).inner.get_vocab().values()) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_saved_tokenizer_is_the_same_after_loading(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(CORPUS, 2)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.inner.to_str() == tokenizer.inner.to_str()
    assert (len(loaded), loaded.special) == (9, tokenizer.special)
    assert loaded.encode(CORPUS) == tokenizer.encode(CORPUS)
    assert loaded.decode([1, 8, 6, 7, 2]) == "the dog runs"


@pytest.mark.parametrize("many", [1, 2, 100])
def test_captions_encoded_one_by_one_are_those_encoded_together(
    many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "MANY", many)
    tokenizer = word_tokenizer(CORPUS, 1)
    assert list(tokenizer.encode_each(iter(CORPUS))) == tokenizer.encode(CORPUS)


@pytest.mark.parametrize("texts", [CORPUS, []])
def test_no_frequent_word_is_one_line_that_names_the_key(texts: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"^no word is seen 4 times in the captions: lower train\.min_count$"
    ):
        word_tokenizer(texts, 4)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers.models import WordLevel

    Inner(WordLevel({"<pad>": 0, "dog": 1}, unk_token="dog")).save(str(tmp_path / "t.json"))
    with pytest.raises(
        UserError,
        match=r"^\S+t\.json: the tokenizer lacks <pad> or <unk>, or puts captions between no start and end "
        r"tokens$",
    ):
        Tokenizer.load(tmp_path / "t.json")
