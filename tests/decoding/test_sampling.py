"""Samples: words are drawn by their probability, with random numbers of each image alone.

The best of several samples is kept.
"""

import pytest
import torch
from torch import Tensor

from pipeline.captioner.captioner import GREEDY
from pipeline.captioning import captions as decoding
from pipeline.captioning.captions import Caption, caption_features
from pipeline.decoders.shared.tokenizers import word_tokenizer
from pipeline.decoding.sampling import draw_by, sample
from pipeline.features.features import Features
from tests.decoders.test_properties import SPECIAL, features, small_decoder

TOKENIZER = word_tokenizer(["a red dog runs", "two red cats sit on a mat"], 1)
DRAWN = {**GREEDY, "samples": 6, "alternatives": 6, "max_tokens": 5, "length_penalty": 2.0}
LOGITS = torch.tensor([0.5, 0.0, 0.2, 0.3]).log() + 3  # log-probabilities up to a constant


def frequencies(top_k: int) -> list[int]:
    """Return how often each word is drawn by a thousand evenly spaced chances."""
    chances = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    return torch.bincount(draw_by(chances, LOGITS.expand(1000, -1), top_k), minlength=4).tolist()


def test_words_are_drawn_as_often_as_they_are_probable() -> None:
    assert frequencies(0) == frequencies(4) == frequencies(9) == [500, 0, 200, 300]


def test_a_word_is_drawn_among_the_likeliest_alone() -> None:
    assert frequencies(2) == [625, 0, 0, 375]
    assert frequencies(1) == [1000, 0, 0, 0]


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_word_without_probability_is_drawn_by_no_chance(top_k: int) -> None:
    chances = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    rows = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    assert set(draw_by(chances, rows, top_k).tolist()) == {1, 2}


def captions(**changed: float) -> list[Caption]:
    decoder = small_decoder("lstm", vocabulary=len(TOKENIZER))
    return caption_features(decoder, TOKENIZER, features(), {**DRAWN, **changed})


def test_the_different_samples_stand_by_log_probability_and_length_the_likeliest_first() -> None:
    by_length = []
    for caption in captions():
        texts = [one.text for one in caption.alternatives]
        assert 1 < len(texts) == len(set(texts)) <= 6
        lengths = [min(5, len(text.split()) + 1) for text in texts]
        own = [one.log_prob for one in caption.alternatives]
        scores = [log_prob / n**2 for log_prob, n in zip(own, lengths, strict=True)]
        assert scores == sorted(scores, reverse=True)
        assert [one.score for one in caption.alternatives] == scores
        assert (caption.text, caption.log_prob, caption.tokens) == (texts[0], own[0], lengths[0])
        by_length.append(own)
    assert any(scores != sorted(scores, reverse=True) for scores in by_length)  # length matters


def test_another_seed_or_temperature_draws_others() -> None:
    assert captions() == captions()
    assert [c.alternatives for c in captions()] != [c.alternatives for c in captions(seed=2)]
    assert [c.alternatives for c in captions()] != [
        c.alternatives for c in captions(temperature=3.0)
    ]


def test_what_is_drawn_does_not_depend_on_how_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = captions()
    monkeypatch.setattr(decoding, "ROWS", 13)  # two images with six samples each
    assert [c.text for c in captions()] == [c.text for c in expected]
    monkeypatch.setattr(decoding, "ROWS", 1)
    assert [c.text for c in captions()] == [c.text for c in expected]


def test_features_that_are_equal_as_they_are_stored_draw_alike() -> None:
    decoder, f = small_decoder("lstm"), features()
    stored = Features(f.grid.half().float(), f.pooled.half().float())
    assert not torch.equal(stored.pooled, f.pooled)
    ours, theirs = (sample(decoder, one, SPECIAL, 3, 8, 1.0, 0, 4) for one in (f, stored))
    assert [[h.tokens for h in row] for row in ours] == [[h.tokens for h in row] for row in theirs]


@pytest.mark.parametrize("name", ["lstm", "soft_attention"])
def test_what_is_drawn_does_not_depend_on_what_features_keep_beside(name: str) -> None:
    decoder, f = small_decoder(name), features()
    none = (
        Features(f.grid[:, :0], f.pooled) if name == "lstm" else Features(f.grid, f.pooled[:, :0])
    )
    ours, theirs = (sample(decoder, one, SPECIAL, 3, 8, 1.0, 0, 4) for one in (f, none))
    assert [[h.tokens for h in row] for row in ours] == [[h.tokens for h in row] for row in theirs]


def test_a_decoder_may_judge_its_samples_by_their_texts_and_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This decoder prefers few words, but many words for the last image."""
    decoder, f = small_decoder("lstm", vocabulary=len(TOKENIZER)), features()

    def judge(f: Features, texts: list[str], rows: Tensor) -> Tensor:
        signs = torch.where(rows == len(f) - 1, 1, -1)
        return signs * torch.tensor([len(text.split()) for text in texts])

    monkeypatch.setattr(decoder, "judge", judge)
    for n, caption in enumerate(caption_features(decoder, TOKENIZER, f, DRAWN)):
        lengths = [len(one.text.split()) for one in caption.alternatives]
        assert lengths == sorted(lengths, reverse=n == 3)
        assert [abs(one.score) for one in caption.alternatives] == lengths  # the judge's scores
        assert len(set(lengths)) > 1
