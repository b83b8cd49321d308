"""Scheduled sampling and self-critical training, for every decoder."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocoevalcap.cider.cider_scorer import CiderScorer
from torch import Tensor

from pipeline.core.registry import names
from pipeline.decoders.shared.contract import Decoder, State
from pipeline.decoders.shared.tokenizers import Special, word_tokenizer
from pipeline.decoding.batches import Batch
from pipeline.experiment.params import Training
from pipeline.features.features import Features
from pipeline.metrics.degeneration import bad_endings
from pipeline.metrics.shared import texts
from pipeline.training.scheduled_sampling import mixed_inputs, own_word_probability
from pipeline.training.self_critical import CiderReward, sample_batch, self_critical_loss
from tests.training.test_trainer import OPTIONS, Killed, kill_after, same, trainer, weights

SPECIAL = Special(pad=0, start=1, end=2, unknown=3)
REFERENCES = {
    "a": ["a red star", "there is a red star", "one red star on a field"],
    "b": ["a blue heart", "there is a blue heart"],
    "c": ["two green squares of different size", "a green square and a green square"],
}


def options(**changed: Any) -> Training:
    return Training(**{**OPTIONS, **changed})


class Counting(Decoder):
    """Always continues word n with word n + 1, and the seventh word with the first."""

    def start(self, f: Features) -> State:
        return {"none": f.pooled}

    def advance(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        following = torch.where(tokens < 4, 4, (tokens - 3) % 7 + 4)
        return torch.nn.functional.one_hot(following, 11) * 50.0, s

    def project(self, hidden: Tensor) -> Tensor:
        return hidden


def batch(tokens: list[list[int]]) -> Batch:
    rows = torch.tensor(tokens)
    features = Features(torch.zeros(len(rows), 1, 2), torch.zeros(len(rows), 2))
    return Batch(
        [str(i) for i in range(len(rows))],
        features,
        rows,
        rows != SPECIAL.pad,
        torch.arange(len(rows)),
    )


def test_the_share_of_own_words_follows_its_schedule() -> None:
    linear = options(scheduled_sampling="linear", sampling_end=0.25)
    assert [own_word_probability(linear, step, 101) for step in (0, 50, 100)] == [0, 0.125, 0.25]
    inverse = options(scheduled_sampling="inverse_sigmoid", sampling_k=10.0)
    assert own_word_probability(inverse, 0, 100) == 1 - 10 / 11
    assert own_word_probability(inverse, 50, 100) == 1 - 10 / (10 + math.e**5)
    assert own_word_probability(inverse, 10**9, 10**9) == 1
    assert [
        own_word_probability(options(scheduled_sampling=s), 7, 9) for s in ("none", "always")
    ] == [0, 1]


def test_without_own_words_the_inputs_are_the_references() -> None:
    b = batch([[1, 9, 9, 5, 2], [1, 8, 2, 0, 0]])
    assert torch.equal(mixed_inputs(Counting(), b, 0.0, SPECIAL), b.tokens[:, :-1])


def test_with_own_words_alone_each_input_follows_from_the_one_before() -> None:
    b = batch([[1, 9, 9, 5, 2], [1, 8, 2, 0, 0]])
    assert mixed_inputs(Counting(), b, 1.0, SPECIAL).tolist() == [[1, 4, 5, 6], [1, 4, 5, 6]]


def test_about_as_many_words_are_own_as_asked() -> None:
    b = batch([[1, *[10] * 40, 2]] * 50)
    share = (mixed_inputs(Counting(), b, 0.3, SPECIAL)[:, 1:] != 10).float().mean().item()
    # The seventh word is 10: an own word may be 10 itself, so the share is a little below 0.3.
    assert 0.25 < share < 0.33


@pytest.mark.parametrize("decoder", names("decoders"))
@pytest.mark.parametrize("regime", ["linear", "inverse_sigmoid", "always"])
def test_every_decoder_learns_from_its_own_words(tmp_path: Path, decoder: str, regime: str) -> None:
    history = trainer(
        tmp_path, decoder, epochs=5, scheduled_sampling=regime, sampling_end=0.5, sampling_k=4.0
    ).run()
    assert history.train_loss.iloc[-1] < 0.9 * history.train_loss.iloc[0]


def test_the_reward_equals_the_original_scorer_with_the_end_token_as_a_word() -> None:
    said = {"a": "there is a red star <end>", "b": "a blue square <end>", "c": "a green square of"}
    original = CiderScorer()
    for image, text in said.items():
        original += (text, [f"{r} <end>" for r in REFERENCES[image]])
    _, expected = original.compute_score()
    assert CiderReward(REFERENCES)(list(said), list(said.values())) == pytest.approx(
        expected.tolist(), abs=1e-12
    )


def test_the_reward_of_a_part_of_the_images_is_that_within_all() -> None:
    reward = CiderReward(REFERENCES)
    whole = reward(["a", "b", "c"], ["a red star <end>", "a blue heart <end>", "a square"])
    assert reward(["b", "b"], ["a blue heart <end>", "a blue heart <end>"]) == [whole[1]] * 2


def test_rewards_of_many_captions_of_images_in_any_order_equal_the_original_scorers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(texts, "PART", 7)  # images that are processed together
    rng, words = random.Random(1), ["a", "red", "star", "blue", "heart", "on", "<end>", "unheard"]
    images = rng.choices(list(REFERENCES), k=40)
    said = [" ".join(rng.choices(words, k=rng.randrange(9))) for _ in images]
    expected = []
    for image, text in zip(images, said, strict=True):
        original = CiderScorer()
        for other, references in REFERENCES.items():
            original += (text if other == image else "", [f"{r} <end>" for r in references])
        expected.append(original.compute_score()[1][list(REFERENCES).index(image)])
    assert CiderReward(REFERENCES)(images, said) == pytest.approx(expected, abs=1e-12)
    assert max(expected) > 1


def test_an_image_that_the_reward_does_not_know_is_an_error() -> None:
    with pytest.raises(KeyError, match="stranger"):
        CiderReward(REFERENCES)(["a", "stranger"], ["a red star", "a red star"])


@pytest.mark.parametrize("said", [[], ["a red star"], ["a red star"] * 3])
def test_a_reward_is_of_as_many_captions_as_images(said: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(said)} captions of 2 images"):
        CiderReward(REFERENCES)(["a", "b"], said)


def test_a_caption_that_breaks_off_earns_less() -> None:
    whole, cut, open_end = CiderReward(REFERENCES)(
        ["a"] * 3, ["a red star <end>", "a red star", "a red star on a <end>"]
    )
    assert whole > cut
    assert whole > open_end


def test_bad_endings_are_counted() -> None:
    assert bad_endings(["a dog with a", "a dog", "", "two men of"]) == 2 / 3


def test_sampled_captions_stop_at_the_end_token() -> None:
    class Ending(Counting):
        def project(self, hidden: Tensor) -> Tensor:
            # The end follows word 5.
            return hidden.index_copy(1, torch.tensor([SPECIAL.end]), hidden[:, [6]] * 2)

    tokens, mask = sample_batch(Ending(), batch([[1, 4, 2]]), 2, SPECIAL, 9)
    assert tokens.tolist() == [[1, 4, 5, 2, 0]] * 2
    assert mask.tolist() == [[True, True, True, True, False]] * 2


@pytest.mark.parametrize("decoder", names("decoders"))
@pytest.mark.parametrize(
    ("count", "advantages"), [(1, [0.75]), (2, [0.75, -0.75]), (3, [0.75, 0, -0.75])]
)
def test_the_self_critical_loss_is_the_log_probability_of_the_sample_by_its_advantage(
    tmp_path: Path, decoder: str, count: int, advantages: list[float]
) -> None:
    t = trainer(tmp_path, decoder)
    b = next(iter(t.train_batches.in_order()))
    asked: list[list[str]] = []

    def reward(ids: list[str], texts: list[str]) -> list[float]:
        """Return the rewards of each image's samples.

        A single sample has 1, and the greedy caption that it is compared with has 0.25.
        """
        asked.append(ids)
        greedy = len(asked) == 2
        each = {1: [0.25 if greedy else 1.0], 2: [1.0, 0.25], 3: [1.0, 0.5, 0.0]}[count]
        return each * len(b.image_ids)

    torch.manual_seed(3)
    loss, parts, tokens_in_mean = self_critical_loss(t.decoder, b, t.tokenizer, reward, count, 6)  # type: ignore[arg-type]
    torch.manual_seed(3)
    tokens, mask = sample_batch(t.decoder, b, count, t.tokenizer.special, 6)
    rows = torch.arange(len(b.image_ids)).repeat_interleave(count)
    logits = t.decoder(b.features, tokens[:, :-1], rows)
    special = t.tokenizer.special
    for never in (special.pad, special.start, special.unknown):
        if never < logits.shape[-1]:
            logits[..., never] = -torch.inf  # As in the draw.
    log_probs = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    weighted = log_probs * torch.tensor(advantages * len(b.image_ids))[:, None]
    assert loss.item() == pytest.approx(-weighted[mask[:, 1:]].mean().item(), rel=1e-4)
    assert parts["train_reward"] == pytest.approx({1: 1.0, 2: 0.625, 3: 0.5}[count])
    assert tokens_in_mean == mask[:, 1:].sum().item()
    assert asked[0] == [i for i in b.image_ids for _ in range(count)]


SELF_CRITICAL = {"self_critical_epochs": 15, "self_critical_lr": 0.01, "self_critical_samples": 15}


@pytest.mark.parametrize("decoder", names("decoders"))
def test_self_critical_training_raises_the_reward_of_every_decoder(
    tmp_path: Path, decoder: str
) -> None:
    options = {"epochs": 6, **SELF_CRITICAL}
    if decoder == "vlm":  # it has more layers, and forgets all it knew at the others' rate
        options |= {"epochs": 12, "self_critical_lr": 0.002}
    history = trainer(tmp_path, decoder, patience=20, **options).run()
    rewards = history.train_reward[options["epochs"] :]
    assert rewards[-5:].mean() > 1.05 * rewards[:3].mean()
    assert history.val_bad_endings.iloc[-1] == 0


@pytest.mark.parametrize("decoder", ["merge", "soft_attention"])
def test_self_critical_training_raises_the_validation_cider_over_its_start(
    tmp_path: Path, decoder: str
) -> None:
    history = trainer(tmp_path, decoder, epochs=6, patience=20, **SELF_CRITICAL).run()
    assert history.val_cider[6:].max() > 1.5 * history.val_cider[:6].max()


@pytest.mark.parametrize("decoder", ["merge", "lstm", "soft_attention"])
def test_self_critical_training_moves_no_probability_to_tokens_that_are_never_drawn(
    tmp_path: Path, decoder: str
) -> None:
    """Nothing would move it back, and search, which adds log-probabilities of the whole vocabulary,
    would look for words after which such tokens are unlikely."""
    t = trainer(tmp_path, decoder)
    b = next(iter(t.train_batches.in_order()))
    loss, *_ = self_critical_loss(t.decoder, b, t.tokenizer, t.reward, 3, 6)
    loss.backward()
    special = t.tokenizer.special
    (bias,) = (w for w in t.decoder.parameters() if w.shape == (len(t.tokenizer),))
    never = [special.pad, special.start, special.unknown]
    assert bias.grad is not None
    assert not bias.grad[never].any()
    assert bias.grad.any()


@pytest.mark.parametrize("steps", [5, 7])
def test_a_run_killed_in_self_critical_training_ends_with_the_same_weights(
    tmp_path: Path, steps: int, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    chosen = {"epochs": 2, "self_critical_epochs": 2, "scheduled_sampling": "always"}
    whole = trainer(tmp_path / "whole", **chosen)
    history = whole.run()
    monkeypatch.setenv("CAPTIONLAB_CHECKPOINT_MINUTES", "0")
    first = trainer(tmp_path / "killed", **chosen)
    monkeypatch.setattr(
        first,
        "_end_phase",
        lambda end=first._end_phase: (end(), kill_after(first, 1)),
    )
    kill_after(first, steps)
    with pytest.raises(Killed):
        first.run()
    torch.rand(17)
    second = trainer(tmp_path / "killed", **chosen)
    assert second.run().to_csv() == history.to_csv()
    assert same(weights(second), weights(whole))


def test_training_that_stops_early_goes_on_self_critically(tmp_path: Path) -> None:
    history = trainer(tmp_path, epochs=30, patience=1, lr=1e-9, self_critical_epochs=1).run()
    assert 1 < len(history) < 30
    assert history.train_reward.notna().tolist() == [False] * (len(history) - 1) + [True]


def test_a_word_that_reads_like_the_end_token_is_not_taken_for_it() -> None:
    tokenizer = word_tokenizer(["the <end> of it"], 1)
    assert tokenizer.special.end == tokenizer.encode([""])[0][-1]
