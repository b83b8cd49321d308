"""Properties of every decoder file: a new file under pipeline/decoders/ is tested at once."""

from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.captioning.captions import caption_features
from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Decoder, Sizes, pick_rows
from pipeline.decoders.shared.deferred_gradient import deferred_gradients, linear
from pipeline.decoders.shared.model_folder import (
    build_decoder,
    check_grid,
    check_keep,
    load_model,
    read_vocabulary,
    save_model,
)
from pipeline.decoders.shared.tokenizers import Special, word_tokenizer
from pipeline.decoding.sampling import sample
from pipeline.decoding.search import beam_search, greedy, top
from pipeline.features.features import Features, parts
from tests.tiny_lm import tiny_bank, tiny_config

# A grid of 3 x 3 positions with three colours is a picture, so every decoder can see it.
B, P, D, DP, V, T = 4, 9, 3, 12, 23, 7
SPECIAL = Special(pad=0, start=1, end=2, unknown=3)
SMALL = {
    "embedding": 8,
    "hidden": 16,
    "attention": 10,
    "layers": 2,
    "width": 16,
    "heads": 4,
    "feedforward": 24,
}
SMALL |= {
    "prefix": 3,
    "clip_length": 2,
    "mapping_layers": 2,
    "mapping_heads": 2,
    "lm_weights": "random",
}
MODELS = Path(__file__).parents[1] / "models"
# Further settings of decoder files: name -> (file, arguments).
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "prefix_lm-llama": ("prefix_lm", {"mapping": "transformer"}),
    "prefix_lm-llama-untied": ("prefix_lm", {"prefix": 1}),
    "prefix_lm-frozen": ("prefix_lm", {"tune_lm": False, "normalise": False}),
    "prefix_lm-lora": ("prefix_lm", {"lora": {"rank": 2, "dora": True}}),
    "prefix_lm-llama-lora": ("prefix_lm", {"lora": {"rank": 2}}),
    "vit_gpt2-lora": ("vit_gpt2", {"lora": {"rank": 2}}),
    "blip-lora": ("blip", {"lora": {"rank": 2, "dora": True}}),
    "git-lora": ("git", {"lora": {"rank": 2}}),
    "blip-prompt": ("blip", {"prompt": "word1 word4 word2"}),
    "blind-llama": ("blind", {"hierarchy": False}),
}
# Further models of the decoder vlm, and which of their weights are trained.
VISION_LANGUAGE = {
    "smolvlm": "all",
    "qwen2_5_vl": "all",
    "qwen3_vl": "adapter",
    "internvl": "adapter",
    "paligemma": "adapter",
    "gemma3": "all",
    "idefics2": "adapter",
    "blip-2": "all",
}
FURTHER |= {
    f"vlm-{model}": ("vlm", {"model": str(MODELS / model), "tune": tune})
    for model, tune in VISION_LANGUAGE.items()
}
FURTHER["vlm_seq2seq-blip-2-t5"] = (
    "vlm_seq2seq",
    {"model": str(MODELS / "blip-2-t5"), "tune": "adapter"},
)
FURTHER |= {
    "vlm-4bit": ("vlm", {"tune": "adapter", "quantise": "4bit"}),
    "vlm_seq2seq-4bit": (
        "vlm_seq2seq",
        {"model": str(MODELS / "blip-2-t5"), "tune": "adapter", "quantise": "4bit"},
    ),
}
FAMILIES = {
    "blind": "gpt2",
    "blind-llama": "llama",
    "prefix_lm": "gpt2",
    "prefix_lm-frozen": "gpt2",
    "prefix_lm-lora": "gpt2",
    "prefix_lm-llama-lora": "llama",
    "prefix_lm-llama": "llama",
    "prefix_lm-llama-untied": "llama-untied",
}
# Arguments of the decoders that are read from files.
FILES: dict[str, dict[str, Any]] = {
    **{
        name: {"model": str(MODELS / name), "weights": "random"}
        for name in ("blip", "git", "vit_gpt2")
    },
    "vlm": {"model": str(MODELS / "llava"), "weights": "random", "tune": "all"},
    "vlm_seq2seq": {"model": str(MODELS / "florence2"), "weights": "random", "tune": "all"},
    "blind": {"clip": str(MODELS / "clip"), "clip_weights": "random", "longest_prompt": 30},
}


def small(name: str, vocabulary: int = V) -> tuple[str, dict[str, Any], Sizes]:
    """Return the decoder's file, arguments that make its layers narrow, and its sizes."""
    file, further = FURTHER.get(name, (name, {}))
    allowed = registry.load("decoders", file).Decoder.__init__.__kwdefaults__ or {}
    args = {**{k: v for k, v in SMALL.items() if k in allowed}, **FILES.get(file, {}), **further}
    known: dict[str, Any] = {}
    if name in FAMILIES:
        known = {
            "lm": tiny_config(FAMILIES[name], vocabulary),
            "start": SPECIAL.start,
            **tiny_bank(vocabulary),
        }
    elif file in FILES:
        text = " ".join(f"word{n}" for n in range(vocabulary - 4))
        known = read_vocabulary(file, [text], 1, args, "args")[1]
    return file, args, Sizes(D, DP, vocabulary, known)


def small_decoder(name: str, vocabulary: int = V, seed: int = 0) -> Decoder:
    """Return the decoder with narrow layers.

    Its weights are large enough to make distributions far from uniform. Codes of 4 bits stand for
    values of about half the scale, so scales are twice as large as other weights.
    """
    file, args, sizes = small(name, vocabulary)
    torch.manual_seed(seed)
    decoder = build_decoder(file, sizes, args)
    with torch.no_grad():
        for part, weight in decoder.named_parameters():
            if weight.dtype == torch.uint8:
                weight.random_(256)
            else:
                spread = 0.8 if part.endswith(".scales") else 0.4
                weight.copy_(torch.randn_like(weight) * spread)
    return decoder.eval()


@pytest.fixture(params=[*registry.names("decoders"), *FURTHER])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def features(n: int = B) -> Features:
    g = torch.Generator().manual_seed(3)
    return Features(torch.randn(n, P, D, generator=g), torch.randn(n, DP, generator=g))


def words(*shape: int) -> Tensor:
    return torch.randint(4, V, shape, generator=torch.Generator().manual_seed(5))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    difference = (ours - theirs).abs()
    assert torch.allclose(ours, theirs, atol=tolerance), (
        f"max {difference.max():.2e} mean {difference.mean():.2e}"
    )


def padded_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, mask and image rows of six captions of four images.

    The captions have 8, 3, 5, 8, 2 and 6 tokens, including start and end.
    """
    lengths, rows = torch.tensor([8, 3, 5, 8, 2, 6]), torch.tensor([0, 0, 1, 2, 3, 3])
    tokens = words(6, 8)
    mask = torch.arange(8) < lengths[:, None]
    tokens[:, 0] = SPECIAL.start
    tokens[torch.arange(6), lengths - 1] = SPECIAL.end
    return tokens.masked_fill(~mask, SPECIAL.pad), mask, rows


def test_forward_equals_unrolled_steps(name: str) -> None:
    decoder, tokens = small_decoder(name), words(B, T)
    state, logits = decoder.start(features()), []
    for t in range(T):
        out, state = decoder.step(tokens[:, t], state)
        logits.append(out)
    # The difference is 1.7e-5 for paligemma on a processor with AVX-512.
    close(decoder(features(), tokens), torch.stack(logits, 1), tolerance=5e-5)


def test_rows_that_point_at_images_equal_repeated_images(name: str) -> None:
    decoder, tokens = small_decoder(name), words(6, T)
    rows = torch.tensor([2, 0, 0, 3, 1, 2])
    close(decoder(features(), tokens, rows), decoder(features().select(rows), tokens))


def test_a_word_depends_on_no_later_word(name: str) -> None:
    decoder, tokens = small_decoder(name), words(B, T)
    changed = tokens.clone()
    changed[:, 4:] = 4 + (changed[:, 4:] - 3) % (V - 4)
    close(decoder(features(), tokens)[:, :4], decoder(features(), changed)[:, :4])


def test_padding_changes_nothing(name: str) -> None:
    decoder, (tokens, mask, rows) = small_decoder(name), padded_batch()
    loss = decoder.loss(features(), tokens, mask, rows)
    total, count = 0.0, 0
    for row in range(len(tokens)):
        n = int(mask[row].sum())
        alone = decoder.loss(
            features().select(rows[row : row + 1]),
            tokens[row : row + 1, :n],
            mask[row : row + 1, :n],
        )
        total, count = total + alone.cross_entropy.item() * alone.tokens, count + alone.tokens
    assert loss.tokens == count == 26
    assert loss.cross_entropy.item() == pytest.approx(total / count, rel=1e-5)


def test_the_loss_is_the_mean_negative_log_probability_of_the_next_word(name: str) -> None:
    decoder, (tokens, mask, rows) = small_decoder(name), padded_batch()
    log_probs = decoder(features(), tokens[:, :-1], rows).log_softmax(-1)
    picked = log_probs.gather(-1, tokens[:, 1:, None])[..., 0][mask[:, 1:]]
    assert decoder.loss(features(), tokens, mask, rows).cross_entropy.item() == pytest.approx(
        -picked.mean().item(), rel=1e-5
    )


def test_a_loss_in_bfloat16_is_close_to_that_in_float32_on_any_machine(name: str) -> None:
    """Not every CPU supports every layer in bfloat16."""
    decoder, (tokens, mask, rows) = small_decoder(name), padded_batch()
    exact = decoder.loss(features(), tokens, mask, rows).cross_entropy.item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = decoder.loss(features(), tokens, mask, rows)
    loss.total.backward()
    assert loss.cross_entropy.item() == pytest.approx(exact, rel=0.05)


def test_regularisers_are_separate_terms_and_the_total_adds_them(name: str) -> None:
    decoder, (tokens, mask, rows) = small_decoder(name), padded_batch()
    loss = decoder.loss(features(), tokens, mask, rows)
    assert loss.total.item() == pytest.approx(
        loss.cross_entropy.item() + sum(t.item() for t in loss.terms.values())
    )


def test_every_parameter_gets_a_gradient(name: str) -> None:
    decoder, (tokens, mask, rows) = small_decoder(name).train(), padded_batch()
    decoder.loss(features(), tokens, mask, rows).total.backward()
    trained = [
        (parameter, weight)
        for parameter, weight in decoder.named_parameters()
        if weight.requires_grad
    ]
    assert trained
    for parameter, weight in trained:
        assert weight.grad is not None, f"no gradient for {parameter}"
        assert weight.grad.abs().sum() > 0, f"a gradient of zeros for {parameter}"


@pytest.mark.parametrize("beam", [1, 3])
def test_a_caption_alone_equals_the_caption_in_a_batch(name: str, beam: int) -> None:
    decoder, f = small_decoder(name), features()
    together = beam_search(decoder, f, SPECIAL, beam, 10, 0.7)
    for image in range(B):
        alone = beam_search(decoder, f.select(torch.tensor([image])), SPECIAL, beam, 10, 0.7)[0]
        assert [h.tokens for h in alone] == [h.tokens for h in together[image]]
        assert [h.log_prob for h in alone] == pytest.approx(
            [h.log_prob for h in together[image]], abs=1e-4
        )


@pytest.mark.parametrize("top_k", [0, 3])
def test_samples_score_their_teacher_forced_log_probability_and_depend_on_no_other_image(
    name: str, top_k: int
) -> None:
    decoder, f = small_decoder(name), features()
    drawn = sample(decoder, f, SPECIAL, 3, 9, 0.8, top_k, seed=7)
    first = sample(decoder, f, SPECIAL, 1, 9, 0.8, top_k, seed=7)
    assert [[h.tokens for h in hypotheses] for hypotheses in first] == [
        [hypotheses[0].tokens] for hypotheses in drawn
    ]
    assert len({h.tokens for hypotheses in drawn for h in hypotheses}) > 4
    for image, hypotheses in enumerate(drawn):
        one = f.select(torch.tensor([image]))
        alone = sample(decoder, one, SPECIAL, 3, 9, 0.8, top_k, seed=7)[0]
        assert [h.tokens for h in alone] == [h.tokens for h in hypotheses]
        for h in hypotheses:
            assert not {SPECIAL.pad, SPECIAL.start, SPECIAL.unknown} & set(h.tokens)
            assert (SPECIAL.end in h.tokens) == (h.tokens[-1] == SPECIAL.end) or len(h.tokens) == 9
            tokens = torch.tensor([[SPECIAL.start, *h.tokens]])
            log_probs = decoder(one, tokens[:, :-1]).log_softmax(-1)
            assert h.log_prob == pytest.approx(
                log_probs.gather(-1, tokens[:, 1:, None]).sum().item(), abs=1e-4
            )


def test_samples_of_the_likeliest_word_alone_or_at_no_temperature_are_greedy(name: str) -> None:
    decoder, f = small_decoder(name), features()
    expected = [h.tokens for h in greedy(decoder, f, SPECIAL, 9)]
    assert [h[0].tokens for h in sample(decoder, f, SPECIAL, 1, 9, 1.0, 1, seed=7)] == expected
    assert [h[0].tokens for h in sample(decoder, f, SPECIAL, 1, 9, 1e-6, 0, seed=7)] == expected


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_hypothesis_scores_its_teacher_forced_log_probability(name: str, beam: int) -> None:
    decoder, f = small_decoder(name), features()
    for image, hypotheses in enumerate(beam_search(decoder, f, SPECIAL, beam, 9, 0.7)):
        assert len(hypotheses) >= beam  # more if several end in the last step
        for h in hypotheses:
            tokens = torch.tensor([[SPECIAL.start, *h.tokens]])
            log_probs = decoder(f.select(torch.tensor([image])), tokens[:, :-1]).log_softmax(-1)
            assert h.log_prob == pytest.approx(
                log_probs.gather(-1, tokens[:, 1:, None]).sum().item(), abs=1e-4
            )


def test_beam_one_equals_greedy(name: str) -> None:
    decoder = small_decoder(name)
    ours, theirs = (
        beam_search(decoder, features(), SPECIAL, 1, 12, 0.0),
        greedy(decoder, features(), SPECIAL, 12),
    )
    assert [h[0].tokens for h in ours] == [h.tokens for h in theirs]
    assert [h[0].log_prob for h in ours] == pytest.approx([h.log_prob for h in theirs], abs=1e-4)


def test_a_wide_beam_finds_the_likeliest_caption_of_all(name: str) -> None:
    """The test enumerates every caption of at most 3 tokens, from 3 words and <end>."""
    decoder, f = small_decoder(name, vocabulary=7), features(1)
    best, score = (), -torch.inf

    def visit(prefix: tuple[int, ...], total: float) -> None:
        nonlocal best, score
        if prefix and (prefix[-1] == SPECIAL.end or len(prefix) == 3):
            if total > score:
                best, score = prefix, total
            return
        logits = decoder(f, torch.tensor([[SPECIAL.start, *prefix]]))[0, -1].log_softmax(-1)
        for word in (SPECIAL.end, 4, 5, 6):
            visit((*prefix, word), total + logits[word].item())

    with torch.no_grad():
        visit((), 0.0)
    found = beam_search(decoder, f, SPECIAL, 64, 3, 0.0)[0][0]
    assert found.tokens == best
    assert found.log_prob == pytest.approx(score, abs=1e-4)


def test_pad_start_and_unknown_are_never_generated(name: str) -> None:
    decoder = small_decoder(name)
    for hypotheses in beam_search(decoder, features(), SPECIAL, 4, 12, 0.7):
        assert not {0, 1, 3} & {t for h in hypotheses for t in h.tokens}


def test_a_decoder_that_reads_the_grid_wants_several_positions_or_a_picture(name: str) -> None:
    file, args, sizes = small(name)
    decoder, f, tokens = small_decoder(name), features(), words(B, 2)
    reads = not torch.allclose(decoder(f, tokens), decoder(Features(f.grid**3, f.pooled), tokens))
    if not reads:
        assert not decoder.attends
        check_grid(file, 1, "x")
    elif decoder.attends:
        with pytest.raises(
            UserError,
            match=f"^x: {file} attends to the positions of a grid, and these features have none: "
            "name",
        ):
            check_grid(file, 1, "x")
    else:
        with pytest.raises(UserError, match="give it features of the encoder pixels"):
            build_decoder(file, replace(sizes, grid=D + 1), args)


def test_a_decoder_says_what_it_reads_of_features_and_reads_no_more(name: str) -> None:
    """A store may omit what a decoder does not read. What it reads without using costs disk."""
    file, decoder, f = small(name)[0], small_decoder(name), features()
    tokens = torch.cat([torch.full((B, 1), SPECIAL.start), words(B, 2)], 1)
    assert registry.reads(file) == decoder.reads
    expected = decoder(f, tokens)
    kept = {"grid": f.grid[:, :0], "pooled": f.pooled[:, :0]}
    kept |= {part: getattr(f, part) for part in parts(decoder.reads)}
    assert torch.equal(decoder(Features(**kept), tokens), expected)
    for part in parts(decoder.reads):
        other = Features(**{**kept, part: getattr(f, part).flip(0) ** 3})
        assert not torch.allclose(decoder(other, tokens), expected), part


def test_a_decoder_refuses_features_that_lack_what_it_reads(name: str) -> None:
    file, reads = small(name)[0], small_decoder(name).reads
    for keep in ("grid", "pooled", "both"):
        if keep in (reads, "both"):
            check_keep(file, keep, "x")
        else:
            with pytest.raises(
                UserError, match=f"^x: {file} reads {reads}, and these features keep {keep} alone: "
            ):
                check_keep(file, keep, "x")


def test_a_state_is_batch_first_so_that_a_beam_can_reorder_it(name: str) -> None:
    decoder, order = small_decoder(name), torch.tensor([2, 0, 3, 1])
    tokens = words(B)
    _, state = decoder.step(tokens, decoder.start(features()))
    assert {len(v) for v in state.values()} == {B}
    swapped, _ = decoder.step(tokens[order], pick_rows(state, order))
    close(swapped, decoder.step(tokens, state)[0][order])


def test_what_beams_share_may_have_one_row_an_image(name: str) -> None:
    decoder, tokens, rows = small_decoder(name), words(3 * B), torch.arange(B).repeat_interleave(3)
    first = decoder.start(features())
    shared = {k: first[k] for k in decoder.shared}
    alone = together = pick_rows(first, rows)
    for _ in range(3):
        ours, together = decoder.step(tokens, together | shared)
        theirs, alone = decoder.step(tokens, alone)
        close(ours, theirs)


def test_a_saved_model_gives_the_same_captions_after_loading(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    tokenizer = word_tokenizer(["a red dog runs", "two red cats sit on a mat"], 1)
    decoder = small_decoder(name, vocabulary=len(tokenizer))
    file, args, sizes = small(name, len(tokenizer))
    save_model(
        tmp_path / "m", decoder, tokenizer, {"decoder": file, "args": args, "sizes": asdict(sizes)}
    )
    loaded, its_tokenizer, config = load_model(tmp_path / "m")
    decode = {"beam": 2, "max_tokens": 8, "length_penalty": 0.7, "alternatives": 2, "samples": 0}
    assert config["decoder"] == file
    assert caption_features(loaded, its_tokenizer, features(), decode) == caption_features(
        decoder, tokenizer, features(), decode
    )
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("search", [{"beam": 1}, {"beam": 3}, {"samples": 1}])
def test_probabilities_that_are_not_finite_are_one_line(name: str, search: dict[str, int]) -> None:
    decoder = small_decoder(name)
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.is_floating_point():  # not the codes of 4 bits, which have scales
                weight.fill_(1e38)  # finite, so that the reader of models lets it pass
    tokenizer = word_tokenizer([" ".join(f"word{n}" for n in range(V - 4))], 1)
    decode = {"beam": 1, "max_tokens": 4, "length_penalty": 1.0, "alternatives": 1, "samples": 0}
    decode |= {"temperature": 1.0, "top_k": 0, "seed": 1, **search}
    if (
        name == "blind-llama"
    ):  # its first layer divides the embedding by its size, which is infinite
        assert all(
            isfinite(c.log_prob) for c in caption_features(decoder, tokenizer, features(), decode)
        )
        return
    with pytest.raises(UserError, match=r"^the model's probabilities are not finite for an image"):
        caption_features(decoder, tokenizer, features(), decode)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_weight_of_many_steps_gets_the_sum_of_their_gradients(bfloat16: bool) -> None:
    g = torch.Generator().manual_seed(1)
    weight, bias = (
        torch.randn(*shape, generator=g, requires_grad=True) for shape in ((5, 8), (5,))
    )
    x, kind = (
        torch.randn(6, 4, generator=g, requires_grad=True),
        torch.bfloat16 if bfloat16 else torch.float32,
    )

    def run(multiply) -> list[Tensor]:  # type: ignore[no-untyped-def]
        h, outs = x, []
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), deferred_gradients():
            for n in (6, 6, 3, 1):  # some rows end early
                h = (
                    torch.tanh(multiply(h[:n], weight[:, :4], bias))[:, :4]
                    + multiply(h[:n], weight[:, 4:])[:, 1:]
                )
                assert h.dtype == kind
                outs.append(h.float().square().sum())
        out = torch.stack(outs).sum()
        return [out, *torch.autograd.grad(out, (x, weight, bias))]

    for ours, theirs in zip(run(linear), run(torch.nn.functional.linear), strict=True):
        assert theirs.abs().max() > 5
        close(ours, theirs, (0.02 if bfloat16 else 1e-6) * theirs.abs().max().item())


def test_weights_that_are_frozen_get_no_gradient_from_many_steps() -> None:
    weight, x = torch.randn(4, 4), torch.randn(2, 4, requires_grad=True)
    with deferred_gradients():
        linear(linear(x, weight), weight).sum().backward()
    close(x.grad, (weight @ weight).sum(0).expand(2, 4))


@pytest.mark.parametrize(("width", "size"), [(1000, 64), (1000, 8), (64, 64), (40, 64), (129, 8)])
def test_the_largest_by_groups_are_those_of_topk(width: int, size: int) -> None:
    values = torch.randn(5, width, generator=torch.Generator().manual_seed(2))
    values[1] = -torch.inf
    # Row 1 has them in the rest after the last whole group, row 2 in one group.
    values[1, -3:] = values[2, :3] = torch.tensor([9.0, 7.0, 8.0])
    for ours, theirs in zip(top(values, 6, size), values.topk(6), strict=True):
        keep = [0, 2, 3, 4]
        assert torch.equal(ours[keep], theirs[keep])
        assert torch.equal(ours[1, :3], theirs[1, :3])
