"""The transformer decoder, compared with torch's own layers, and its cache of earlier words."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.decoders.shared import contract
from pipeline.decoders.shared.contract import Sizes, pick_rows
from pipeline.decoders.shared.model_folder import load_model, save_model
from pipeline.decoders.shared.tokenizers import word_tokenizer
from pipeline.decoders.transformer import Attention, Decoder, sinusoids
from pipeline.features.features import Features
from tests.decoders.test_properties import (
    DP,
    B,
    D,
    P,
    T,
    V,
    close,
    features,
    padded_batch,
    small_decoder,
    words,
)

WIDTH, HEADS, LAYERS, FEEDFORWARD = 16, 4, 2, 24


def small(tied: bool = True, vocabulary: int = V, **args: float) -> Decoder:
    torch.manual_seed(1)
    decoder = Decoder(
        Sizes(D, DP, vocabulary),
        width=WIDTH,
        heads=HEADS,
        layers=LAYERS,
        feedforward=FEEDFORWARD,
        tied=tied,
        **args,
    )
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
    return decoder.eval()


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.keys_and_values.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.keys_and_values.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def torchs_own(ours: Decoder) -> nn.TransformerDecoder:
    """Return an nn.TransformerDecoder with the weights of `ours`."""
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, FEEDFORWARD, norm_first=True, batch_first=True)
    theirs = nn.TransformerDecoder(layer, LAYERS, nn.LayerNorm(WIDTH))
    theirs.norm.load_state_dict(ours.norm.state_dict())
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        copy_attention(mine.words, other.self_attn)
        copy_attention(mine.cross, other.multihead_attn)
        for norm, copy in zip(mine.norms, (other.norm1, other.norm2, other.norm3), strict=True):
            copy.load_state_dict(norm.state_dict())
        other.linear1.load_state_dict(mine.feed[0].state_dict())
        other.linear2.load_state_dict(mine.feed[3].state_dict())
    return theirs.eval()


def their_hidden(ours: Decoder, f: Features, tokens: Tensor) -> Tensor:
    place = torch.arange(tokens.shape[1])[:, None] / 10000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    positions = torch.zeros(tokens.shape[1], WIDTH)
    positions[:, 0::2], positions[:, 1::2] = place.sin(), place.cos()
    mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
    x = ours.embedding(tokens) * math.sqrt(WIDTH) + positions
    return torchs_own(ours)(x, ours.image(f.grid), tgt_mask=mask, tgt_is_causal=True)


def test_it_equals_torchs_own_layers_with_the_same_weights() -> None:
    decoder, tokens = small(), words(B, T)
    hidden, _ = decoder.unroll(features(), tokens, torch.full((B,), T), None)
    close(hidden, their_hidden(decoder, features(), tokens))
    close(decoder.project(hidden), hidden @ decoder.embedding.weight.T + decoder.bias)


def test_in_training_torchs_own_layers_get_the_same_gradients() -> None:
    decoder, tokens = small(dropout=0.0).train(), words(B, T)
    decoder.unroll(features(), tokens, torch.full((B,), T), None)[0].square().sum().backward()
    ours = {
        n: p.grad for n, p in decoder.named_parameters() if n.startswith(("image", "embedding"))
    }
    decoder.zero_grad()
    their_hidden(decoder, features(), tokens).square().sum().backward()
    for name, gradient in ours.items():
        close(gradient, decoder.get_parameter(name).grad, 1e-3 * gradient.abs().max().item())


def test_positions_are_the_sinusoids_of_the_paper_from_any_position_on() -> None:
    expected = [[0.0, 1.0, 0.0, 1.0], [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]]
    close(sinusoids(0, 2, 4, torch.device("cpu")), torch.tensor(expected))
    close(
        sinusoids(70, 5, 16, torch.device("cpu")), sinusoids(0, 80, 16, torch.device("cpu"))[70:75]
    )


def test_no_caption_is_too_long() -> None:
    decoder = small()
    tokens = words(1, 300)
    state, f = decoder.start(features(1)), features(1)
    for t in range(300):
        hidden, state = decoder.advance(tokens[:, t], state)
    close(hidden, decoder.unroll(f, tokens, torch.tensor([300]), None)[0][:, -1], 1e-4)


def test_the_parallel_pass_equals_the_step_by_step_one_of_every_decoder_padding_and_rows_too() -> (
    None
):
    decoder, (tokens, mask, rows) = small(), padded_batch()
    lengths = mask[:, 1:].sum(1)
    theirs, _ = contract.Decoder.unroll(decoder, features(), tokens[:, :-1], lengths, rows)
    ours, _ = decoder.unroll(features(), tokens[:, :-1], lengths, rows)
    close(ours, theirs)
    assert (ours[~mask[:, 1:]] == 0).all()


def test_the_cache_grows_by_one_word_a_step_and_the_images_part_is_computed_once() -> None:
    decoder = small()
    first = decoder.start(features())
    _, second = decoder.advance(words(B), first)
    _, third = decoder.advance(words(B), second)
    for n in range(LAYERS):
        shapes = [tuple(s[f"words{n}"].shape) for s in (first, second, third)]
        assert shapes == [(B, 2, HEADS, t, WIDTH // HEADS) for t in range(3)]
        assert torch.equal(second[f"words{n}"], third[f"words{n}"][:, :, :, :1])
        assert third[f"image{n}"] is first[f"image{n}"]
        assert first[f"image{n}"].shape == (B, 2, HEADS, P, WIDTH // HEADS)


def test_the_cache_follows_a_beam_that_drops_and_doubles_rows() -> None:
    """After the third word, the beam continues with rows 2, 0 and 2.

    A state with another row's words would give other logits.
    """
    decoder, tokens, order = small(), words(B, 3), torch.tensor([2, 0, 2])
    state = decoder.start(features())
    for t in range(3):
        _, state = decoder.step(tokens[:, t], state)
    last = torch.tensor([7, 8, 9])
    ours, _ = decoder.step(last, pick_rows(state, order))
    whole = torch.cat([tokens[order], last[:, None]], 1)
    theirs = decoder(features().select(order), whole)[:, -1]
    close(ours, theirs)
    assert (theirs[0] - theirs[2]).abs().max() > 0.1


def test_a_step_can_be_trained_through() -> None:
    decoder, tokens = small().train(), words(B, 4)
    state = decoder.start(features())
    for t in range(4):
        logits, state = decoder.step(tokens[:, t], state)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_tied_weights_are_one_matrix_in_memory_and_on_disk(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["a red dog runs", "two red cats sit on a mat"], 1)
    size = len(tokenizer)
    tied, untied = small(True, size), small(False, size)
    count = {d.output is None: sum(p.numel() for p in d.parameters()) for d in (tied, untied)}
    assert count[False] - count[True] == size * WIDTH
    args = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "feedforward": FEEDFORWARD}
    sizes = {"grid": D, "pooled": DP, "vocabulary": size}
    for decoder, is_tied in ((tied, True), (untied, False)):
        config = {"decoder": "transformer", "args": {**args, "tied": is_tied}, "sizes": sizes}
        save_model(tmp_path / "m", decoder, tokenizer, config)
        matrices = [
            k
            for k, v in load_file(tmp_path / "m/model.safetensors").items()
            if v.shape == (size, WIDTH)
        ]
        assert matrices == (
            ["embedding.weight"] if is_tied else ["embedding.weight", "output.weight"]
        )
        tokens = torch.randint(4, size, (B, T))
        close(load_model(tmp_path / "m")[0](features(), tokens), decoder(features(), tokens), 0.0)


def test_a_tied_matrix_learns_from_words_that_are_only_written() -> None:
    decoder, (tokens, mask, rows) = small(), padded_batch()
    unread = next(w for w in range(4, V) if w not in tokens[:, :-1])
    decoder.loss(features(), tokens, mask, rows).cross_entropy.backward()
    assert decoder.embedding.weight.grad[unread].abs().sum() > 0


def test_bfloat16_is_close_to_float32_in_parallel_and_step_by_step() -> None:
    decoder, (tokens, mask, rows) = small_decoder("transformer"), padded_batch()
    lengths = mask[:, 1:].sum(1)
    expected, _ = decoder.unroll(features(), tokens[:, :-1], lengths, rows)
    with torch.autocast("cpu", torch.bfloat16):
        for unroll in (Decoder.unroll, contract.Decoder.unroll):
            hidden, _ = unroll(decoder, features(), tokens[:, :-1], lengths, rows)
            assert (hidden - expected).abs().mean() < 0.03 * expected.abs().mean()


@pytest.mark.parametrize(("width", "heads"), [(18, 4), (15, 3), (16, 0)])
def test_a_width_that_heads_cannot_share_is_one_line(width: int, heads: int) -> None:
    with pytest.raises(
        UserError, match=f"width {width} must be even and a multiple of heads {heads}"
    ):
        Decoder(Sizes(D, DP, V), width=width, heads=heads)
