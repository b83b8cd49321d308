"""Hard attention: its gradient estimate, its baseline and its entropy.

The estimate is compared with the exact gradient, a sum over every sequence of positions.
"""

from itertools import product

import pytest
import torch
from torch import Tensor

from pipeline.decoders.hard_attention import Decoder
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoding.search import beam_search, greedy
from pipeline.features.features import Features
from tests.decoders.test_properties import (
    SPECIAL,
    B,
    close,
    features,
    padded_batch,
    small_decoder,
    words,
)

# Three grid positions, and <start> with two words: there are nine sequences of positions.
POSITIONS, WORDS = 3, torch.tensor([[1, 4, 5]])


def toy(**args: float) -> Decoder:
    """Return a decoder in training mode without dropout; its alpha is far from uniform."""
    torch.manual_seed(2)
    options = {"dropout": 0.0, "expected": 0.0, "entropy": 0.0, **args}
    decoder = Decoder(Sizes(4, 4, 6), embedding=3, hidden=4, attention=3, **options)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(torch.randn_like(weight) * 0.8)
    return decoder.train()


def image() -> Features:
    g = torch.Generator().manual_seed(4)
    return Features(torch.randn(1, POSITIONS, 4, generator=g), torch.randn(1, 4, generator=g))


def along(
    decoder: Decoder, places: tuple[int, ...], tokens: Tensor = WORDS
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(y|s), log p(s) and H[s] of `tokens` (1, T + 1), computed step by step.

    The decoder reads the words at the positions `places`.
    """
    grid = image().grid[0]
    h, c = torch.tanh(decoder.initial(grid.mean(0, keepdim=True))).chunk(2, -1)
    log_word, log_place, entropy = torch.zeros(3).unbind()
    for t, place in enumerate(places):
        alpha = (
            decoder.energy(torch.tanh(decoder.keys(grid) + decoder.query(h))).squeeze(-1).softmax(0)
        )
        log_place, entropy = log_place + alpha[place].log(), entropy - (alpha * alpha.log()).sum()
        h, c = decoder.cell(torch.cat([decoder.embedding(tokens[:, t]), grid[[place]]], -1), (h, c))
        log_word = log_word + decoder.output(h).log_softmax(-1)[0, tokens[0, t + 1]]
    return log_word, log_place, entropy


def exact_gradient(decoder: Decoder) -> Tensor:
    """Return the gradient of -sum_s p(s) log p(y|s) / 2 (equation 11), for two words."""
    decoder.zero_grad()
    paths = [along(decoder, places) for places in product(range(POSITIONS), repeat=2)]
    (-sum(log_place.exp() * log_word for log_word, log_place, _ in paths) / 2).backward()
    return gradient(decoder)


def gradient(decoder: Decoder) -> Tensor:
    return torch.cat([p.grad.flatten() for p in decoder.parameters()])


def estimates(decoder: Decoder, groups: int = 40, samples: int = 4000) -> Tensor:
    """Return independent estimates of the gradient, (groups, parameters).

    Each is the mean over `samples` samples of the same caption.
    """
    found = []
    rows = torch.zeros(samples, dtype=torch.long)
    tokens = WORDS.expand(samples, -1)
    for _ in range(groups):
        decoder.zero_grad()
        decoder.loss(
            image(), tokens, torch.ones_like(tokens, dtype=torch.bool), rows
        ).total.backward()
        found.append(gradient(decoder))
    return torch.stack(found)


def standard_scores(found: Tensor, expected: Tensor) -> Tensor:
    """Return the distance of the mean from `expected`, in standard errors.

    Only the parameters that the caption reaches are included.
    """
    # If no sample changes a parameter, its error is rounding alone.
    error = (found.std(0) / len(found) ** 0.5).clamp(min=1e-6)
    return ((found.mean(0) - expected) / error)[expected != 0]


def test_the_estimate_agrees_with_the_gradient_summed_over_every_sequence_of_positions() -> None:
    scores = standard_scores(estimates(toy()), exact_gradient(toy()))
    assert len(scores) > 100
    assert scores.abs().max() < 4.5, scores.abs().max()


@pytest.mark.parametrize("reinforce", [0.0, 0.9, 1.1])
def test_that_agreement_is_gone_with_any_other_weight_of_the_reinforce_term(
    reinforce: float,
) -> None:
    scores = standard_scores(estimates(toy(reinforce=reinforce)), exact_gradient(toy()))
    assert scores.abs().max() > 6


def test_a_baseline_lowers_the_variance_of_the_estimate() -> None:
    without, with_baseline = toy(), toy()
    with_baseline.baseline.fill_(
        sum(
            p.exp() * y for y, p, _ in (along(toy(), s) for s in product(range(3), repeat=2))
        ).item()
    )
    variances = []
    for decoder in (without, with_baseline):
        start, rows = decoder.baseline.clone(), []
        for _ in range(20):
            decoder.baseline.copy_(start)
            rows.append(estimates(decoder, 1, 100)[0])
        variances.append(torch.stack(rows).var(0).sum().item())
    assert variances[1] < 0.5 * variances[0]


def test_positions_are_sampled_as_often_as_alpha_says() -> None:
    decoder, count = toy(), 30000
    log_alpha = torch.tensor([0.6, 0.3, 0.1]).log().expand(count, -1)
    torch.manual_seed(0)
    shares = torch.bincount(decoder._choose(log_alpha), minlength=3) / count
    close(shares, torch.tensor([0.6, 0.3, 0.1]), 0.01)


def test_the_baseline_keeps_nine_tenths_and_takes_a_tenth_of_the_mean_log_probability_of_a_caption() -> (
    None
):
    decoder = toy(expected=1.0)
    mask = torch.ones_like(WORDS, dtype=torch.bool)
    log_prob = -2 * decoder.loss(image(), WORDS, mask).cross_entropy.item()
    assert decoder.baseline.item() == pytest.approx(0.1 * log_prob)
    decoder.loss(image(), WORDS, mask)
    assert decoder.baseline.item() == pytest.approx(0.19 * log_prob)
    decoder.eval().loss(image(), WORDS, mask)
    assert decoder.baseline.item() == pytest.approx(0.19 * log_prob)
    assert "baseline" in decoder.state_dict()


def test_the_baseline_is_of_earlier_batches_and_smoothing_stays_out_of_the_reward() -> None:
    """For a caption of two words, the term is -(log p(y|s) - b) log p(s) / 2 with the old b."""
    decoder = toy(reinforce=0.7)
    decoder.baseline.fill_(-3.0)
    loss = decoder.loss(image(), WORDS, torch.ones_like(WORDS, dtype=torch.bool), smoothing=0.2)
    candidates = [along(decoder, places) for places in product(range(POSITIONS), repeat=2)]
    terms = [(-0.7 * (y + 3.0) * p / 2).item() for y, p, _ in candidates]
    assert min(abs(loss.terms["reinforce"].item() - term) for term in terms) < 1e-5


def test_the_reward_of_a_caption_is_its_own() -> None:
    """In evaluation mode, positions are not drawn at random.

    The terms of a padded batch are then the sums over its captions.
    """
    decoder, (tokens, mask, rows) = small_decoder("hard_attention"), padded_batch()
    decoder.baseline.fill_(-5.0)
    together = decoder.loss(features(), tokens, mask, rows)
    sums = {"reinforce": 0.0, "entropy": 0.0}
    for row in range(len(tokens)):
        n = int(mask[row].sum())
        alone = decoder.loss(features().select(rows[[row]]), tokens[[row], :n], mask[[row], :n])
        sums = {k: v + alone.terms[k].item() * alone.tokens for k, v in sums.items()}
    assert {k: v.item() * 26 for k, v in together.terms.items()} == pytest.approx(sums, rel=1e-4)


def test_the_entropy_term_equals_the_one_computed_by_hand() -> None:
    """Energies of zero make alpha uniform, so H = ln 3 per word whatever is sampled."""
    decoder = toy(entropy=0.5)
    with torch.no_grad():
        decoder.energy.weight.zero_()
    loss = decoder.loss(image(), WORDS, torch.ones_like(WORDS, dtype=torch.bool))
    assert loss.terms["entropy"].item() == pytest.approx(-0.5 * 1.0986123, rel=1e-5)


def test_the_entropy_of_any_alpha_is_the_plain_sum() -> None:
    decoder = toy(entropy=0.5, expected=0.0).eval()
    state, places = decoder.start(image()), []
    for t in range(2):
        _, state = decoder.advance(decoder.embed(WORDS[:, t]), state)
        places.append(int(state["alpha"].argmax()))
    entropy = along(decoder, tuple(places))[2]
    loss = decoder.loss(image(), WORDS, torch.ones_like(WORDS, dtype=torch.bool))
    assert loss.terms["entropy"].item() == pytest.approx(-0.5 * entropy.item() / 2, rel=1e-5)


def test_about_half_of_the_images_are_seen_through_their_expected_context() -> None:
    decoder = toy(expected=0.5)
    torch.manual_seed(0)
    state = decoder.start(
        Features(image().grid.expand(4000, -1, -1), image().pooled.expand(4000, -1))
    )
    assert state["expected"].float().mean().item() == pytest.approx(0.5, abs=0.03)
    _, state = decoder.advance(decoder.embed(torch.full((4000,), 1)), state)
    contexts = len(state["h"].mul(1e4).round().unique(dim=0))
    assert contexts == POSITIONS + 1
    assert (state["log_sampled"] == 0).equal(state["expected"])


def test_an_expected_context_is_soft_attention_and_has_no_reinforce_term() -> None:
    decoder = toy(expected=1.0)
    f, tokens = image(), WORDS[:, 0]
    before = decoder.start(f)
    h, after = decoder.advance(decoder.embed(tokens), before)
    context = (after["alpha"][..., None] * f.grid).sum(1)
    close(
        h,
        decoder.cell(
            torch.cat([decoder.embedding(tokens), context], -1), (before["h"], before["c"])
        )[0],
    )
    assert (
        decoder.loss(f, WORDS, torch.ones_like(WORDS, dtype=torch.bool)).terms["reinforce"].item()
        == 0
    )


def test_in_evaluation_the_likeliest_position_is_looked_at_and_nothing_depends_on_chance() -> None:
    decoder, f = small_decoder("hard_attention"), features()
    _, state = decoder.advance(decoder.embed(words(B)), decoder.start(f))
    log_alpha = state["log_sampled"]
    close(log_alpha, state["alpha"].max(-1).values.log())
    first, logits = beam_search(decoder, f, SPECIAL, 3, 9, 0.7), decoder(f, words(B, 5))
    torch.rand(3)
    assert beam_search(decoder, f, SPECIAL, 3, 9, 0.7) == first
    assert torch.equal(decoder(f, words(B, 5)), logits)
    decoder.train()
    assert greedy(decoder, f, SPECIAL, 9) != greedy(decoder, f, SPECIAL, 9)


def test_a_step_can_be_trained_through_and_edits_no_state() -> None:
    decoder = toy(expected=0.5)
    first = decoder.start(image())
    copies = {k: v.clone() for k, v in first.items()}
    logits, second = decoder.step(WORDS[:, 0], first)
    (logits.square().sum() + second["log_sampled"].sum()).backward()
    assert decoder.output.weight.grad.abs().sum() > 0
    assert all(torch.equal(first[k], v) for k, v in copies.items())
