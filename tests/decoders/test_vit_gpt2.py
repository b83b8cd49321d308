"""ViT-GPT2, compared with transformers' VisionEncoderDecoderModel with the same weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Sizes, pick_rows
from pipeline.decoders.shared.model_folder import (
    build_decoder,
    load_model,
    read_vocabulary,
    save_model,
)
from pipeline.decoders.shared.tokenizers import Tokenizer, byte_level_bpe
from pipeline.decoders.vit_gpt2 import Decoder
from pipeline.decoding.batches import Batch
from pipeline.decoding.search import beam_search, greedy
from pipeline.encoders.pixels import Encoder
from pipeline.features.features import Features
from pipeline.training.scheduled_sampling import mixed_inputs
from pipeline.training.self_critical import sample_batch
from tests.decoders.test_properties import close, padded_batch

MODEL = Path(__file__).parents[1] / "models/vit_gpt2"
TEXTS = ["a red dog runs on grass", "two cats sit on a blue mat", "the ball lies near a green box"]
VOCABULARY, B, SIDE = 270, 4, 4
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "a linear layer between two widths": {},
    "one width": {"decoder": {"n_embd": 16}},
    "deit": {"encoder": {"model_type": "deit"}},
    "untied": {"decoder": {"tie_word_embeddings": False}},
    "attention scaled by its layer": {
        "decoder": {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}
    },
}


def config(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the config of tests/models/vit_gpt2 with the size of a tokenizer's vocabulary.

    Its pictures have 4 x 4 pixels, its patches 2 x 2.
    """
    content = read_json(MODEL / "config.json")
    content["encoder"] |= {"image_size": SIDE, "patch_size": 2, **changes.get("encoder", {})}
    content["decoder"] |= {"vocab_size": VOCABULARY, **changes.get("decoder", {})}
    return content


def reference(changes: dict[str, dict[str, Any]]) -> VisionEncoderDecoderModel:
    """Return a model whose weights are large enough to make distributions far from uniform."""
    body = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_dict(config(changes)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in body.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    return body.eval()


def publish(folder: Path, **changes: dict[str, Any]) -> VisionEncoderDecoderModel:
    """Write a model folder as the Hub holds it, and return the model."""
    body = reference(changes)
    body.save_pretrained(folder)
    byte_level_bpe(TEXTS, VOCABULARY, "<|endoftext|>").save(str(folder / "tokenizer.json"))
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
    write_json(
        folder / "preprocessor_config.json", {**colours, "size": {"height": SIDE, "width": SIDE}}
    )
    return body


def read(**args: Any) -> tuple[Tokenizer, Sizes]:
    tokenizer, known = read_vocabulary("vit_gpt2", TEXTS, 1, args, "args")
    return tokenizer, Sizes(3, 3, len(tokenizer), known)


def opened(**args: Any) -> tuple[Decoder, Tokenizer]:
    tokenizer, sizes = read(**args)
    decoder = build_decoder("vit_gpt2", sizes, args)
    decoder.load_pretrained(tokenizer)
    return decoder.eval(), tokenizer  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[VisionEncoderDecoderModel, Decoder, Tokenizer]:
    """The same model in transformers, and our decoder and tokenizer for it."""
    folder = tmp_path_factory.mktemp("published")
    body = publish(folder)
    return body, *opened(model=str(folder))


def features(n: int = B) -> Features:
    grid = torch.randint(
        0, 256, (n, SIDE * SIDE, 3), generator=torch.Generator().manual_seed(3)
    ).float()
    return Features(grid, grid.mean(1))


def pixels(f: Features) -> Tensor:
    """Return (B, 3, S, S) as transformers' image processor would, computed by hand."""
    pictures = f.grid.view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.25, 0.2])
    return (pictures / 255 - mean[:, None, None]) / std[:, None, None]


def captions(tokenizer: Tokenizer, rows: int = B, length: int = 6) -> tuple[Tensor, Tensor]:
    """Return the same random captions (R, T) for our model and for theirs.

    They differ only in the start token.
    """
    words = torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(5))
    ours, theirs = words.clone(), words.clone()
    ours[:, 0], theirs[:, 0] = tokenizer.special.start, 0
    return ours, theirs


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers_with_the_same_weights(
    folder: Path, variant: str
) -> None:
    body = publish(folder, **VARIANTS[variant])
    decoder, tokenizer = opened(model=str(folder))
    ours, theirs = captions(tokenizer)
    expected = body(pixel_values=pixels(features()), decoder_input_ids=theirs).logits
    assert expected.shape == (B, 6, VOCABULARY)
    assert expected.std() > 0.5
    close(decoder(features(), ours), expected, 1e-4)


def test_rows_of_the_same_image_equal_transformers_with_repeated_images(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer = pair
    rows = torch.tensor([2, 0, 0, 3, 2, 2, 0])
    ours, theirs = captions(tokenizer, len(rows))
    expected = body(pixel_values=pixels(features())[rows], decoder_input_ids=theirs).logits
    close(decoder(features(), ours, rows), expected, 1e-4)


def test_in_training_dropout_falls_where_it_does_in_transformers(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer = pair
    ours, theirs = captions(tokenizer)
    try:
        body.train(), decoder.train()
        torch.manual_seed(7)
        expected = body(pixel_values=pixels(features()), decoder_input_ids=theirs).logits
        torch.manual_seed(7)
        close(decoder(features(), ours), expected, 1e-4)
    finally:
        body.eval(), decoder.eval()
    assert (decoder(features(), ours) - expected).abs().max() > 0.1


def test_loss_and_gradients_equal_those_of_transformers(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer = pair
    tokens, mask, rows = padded_batch()
    tokens[:, 0] = tokenizer.special.start
    tokens[~mask] = tokenizer.special.pad
    loss = decoder.loss(features(), tokens, mask, rows)
    labels = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
    body.config.pad_token_id = 0
    theirs = body(pixel_values=pixels(features())[rows], labels=labels).loss
    assert loss.cross_entropy.item() == pytest.approx(theirs.item(), rel=1e-5)
    loss.cross_entropy.backward(), theirs.backward()
    for ours, other in (
        (
            decoder.encoder.embeddings.patch_embeddings.projection,
            body.encoder.embeddings.patch_embeddings.projection,
        ),
        (decoder.words.wte, body.decoder.transformer.wte),
        (
            decoder.words.h[0].crossattention.c_attn,
            body.decoder.transformer.h[0].crossattention.c_attn,
        ),
        (decoder.projection, body.enc_to_dec_proj),
    ):
        close(ours.weight.grad, other.weight.grad, 1e-3 * other.weight.grad.abs().max().item())
    decoder.zero_grad(), body.zero_grad()


def test_greedy_captions_equal_those_that_transformers_generates(folder: Path) -> None:
    """Use untied weights, because a tied matrix of random weights repeats the same word."""
    body, f = publish(folder, **VARIANTS["untied"]), features(12)
    decoder, tokenizer = opened(model=str(folder))
    found = greedy(decoder, f, tokenizer.special, 9)
    theirs = body.generate(
        pixels(f), do_sample=False, num_beams=1, max_new_tokens=9, pad_token_id=0, eos_token_id=0
    )
    for ours, row in zip(found, theirs[:, 1:].tolist(), strict=True):
        assert list(ours.tokens) == row[: len(ours.tokens)]
        assert set(row[len(ours.tokens) :]) <= {0}
    assert len({h.tokens for h in found}) > 3


def test_a_picture_is_seen_as_transformers_image_processor_shows_it(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer = pair
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    )
    encoder = Encoder(image_size=SIDE)
    ours, theirs = captions(tokenizer, 1)
    size = {"height": SIDE, "width": SIDE}
    processor = ViTImageProcessor(size=size, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2])
    shown = processor(picture, return_tensors="pt")["pixel_values"]
    expected = body(pixel_values=shown, decoder_input_ids=theirs).logits
    close(decoder(encoder(encoder.transform(picture)[None]), ours), expected, 1e-4)


def test_the_image_is_encoded_and_its_keys_are_computed_once_for_all_its_captions_and_steps(
    pair,
) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    seen: list[tuple[int, ...]] = []
    modules = [decoder.encoder, *(layer.crossattention.c_attn for layer in decoder.words.h)]
    hooks = [
        m.register_forward_hook(lambda _m, args, out: seen.append(tuple(out[0].shape)))
        for m in modules
    ]
    tokens, _ = captions(tokenizer, 6)
    decoder(features(2), tokens, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert len(seen) == 3
    state = decoder.start(features(2))
    assert len(seen) == 6
    for t in range(4):
        _, state = decoder.advance(tokens[:2, t], state)
    assert len(seen) == 6
    for hook in hooks:
        hook.remove()


def test_the_cache_grows_by_one_word_a_step_and_no_state_is_edited(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    tokens, _ = captions(tokenizer)
    first = decoder.start(features())
    copies = {name: value.clone() for name, value in first.items()}
    _, second = decoder.advance(tokens[:, 0], first)
    _, third = decoder.advance(tokens[:, 1], second)
    assert [s["words_keys1"].shape for s in (first, second, third)] == [
        (B, 4, t, 6) for t in range(3)
    ]
    assert all(torch.equal(first[name], value) for name, value in copies.items())
    assert torch.equal(second["words_values0"], third["words_values0"][:, :, :1])
    assert third["image_keys0"] is first["image_keys0"]
    assert first["image_keys0"].shape == (B, 4, 5, 6)  # the class token and 2 x 2 patches


def test_the_cache_follows_a_beam_that_drops_and_doubles_rows(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    tokens, _ = captions(tokenizer)
    order, state = torch.tensor([2, 0, 2]), decoder.start(features())
    for t in range(3):
        _, state = decoder.step(tokens[:, t], state)
    ours, _ = decoder.step(torch.tensor([7, 8, 9]), pick_rows(state, order))
    whole = torch.cat([tokens[order, :3], torch.tensor([[7], [8], [9]])], 1)
    close(ours, decoder(features().select(order), whole)[:, -1], 1e-4)


def test_bfloat16_is_close_to_float32(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    tokens, _ = captions(tokenizer)
    expected = decoder(features(), tokens)
    with torch.autocast("cpu", torch.bfloat16):
        together = decoder(features(), tokens)
        state, steps = decoder.start(features()), []
        for t in range(tokens.shape[1]):
            logits, state = decoder.step(tokens[:, t], state)
            steps.append(logits)
    for ours in (together, torch.stack(steps, 1)):
        assert (ours.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_start_pad_and_unknown_lie_beyond_the_logits_and_nothing_says_them(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    special = tokenizer.special
    assert (special.end, sorted([special.pad, special.start, special.unknown])) == (
        0,
        [270, 271, 272],
    )
    assert tokenizer.decode(tokenizer.encode([TEXTS[1]])[0]) == TEXTS[1]
    tokens = torch.tensor(tokenizer.encode(["a red dog"] * B))
    batch = Batch(
        list("abcd"), features(), tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(B)
    )
    said, _ = sample_batch(decoder, batch, 2, special, 6)
    assert said[:, 1].max() < 270
    assert mixed_inputs(decoder, batch, 1.0, special)[:, 1:].max() < 270
    for hypotheses in beam_search(decoder, features(), special, 3, 6, 0.7):
        assert all(max(h.tokens) < 270 for h in hypotheses)


def test_start_within_a_padded_vocabulary_still_reads_the_models_own(folder: Path) -> None:
    """Some configs have more rows than the tokenizer has tokens."""
    body = publish(folder, decoder={"vocab_size": VOCABULARY + 10})
    decoder, tokenizer = opened(model=str(folder))
    ours, theirs = captions(tokenizer)
    assert tokenizer.special.start < VOCABULARY + 10
    close(
        decoder(features(), ours),
        body(pixel_values=pixels(features()), decoder_input_ids=theirs).logits,
        1e-4,
    )


def test_a_trained_model_is_loaded_without_the_files_it_began_with(
    folder: Path, tmp_path: Path
) -> None:
    publish(folder)
    decoder, tokenizer = opened(model=str(folder))
    sizes = read(model=str(folder))[1]
    about = {"decoder": "vit_gpt2", "args": {"model": "a/model"}, "sizes": asdict(sizes)}
    save_model(tmp_path / "m", decoder, tokenizer, about)
    assert str(tmp_path) not in json.dumps(sizes.known)
    shutil.rmtree(folder)
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    expected = beam_search(decoder, features(), tokenizer.special, 3, 7, 0.7)
    assert beam_search(loaded, features(), its_tokenizer.special, 3, 7, 0.7) == expected


@pytest.mark.parametrize(
    ("tied", "names"),
    [(True, ["words.wte.weight"]), (False, ["output.weight", "words.wte.weight"])],
)
def test_each_weight_is_saved_once_and_the_unused_pooler_not_at_all(
    folder: Path, tmp_path: Path, tied: bool, names
) -> None:  # type: ignore[no-untyped-def]
    body = publish(folder, decoder={"tie_word_embeddings": tied})
    decoder, tokenizer = opened(model=str(folder))
    sizes = asdict(read(model=str(folder))[1])
    save_model(
        tmp_path / "m", decoder, tokenizer, {"decoder": "vit_gpt2", "args": {}, "sizes": sizes}
    )
    saved = load_file(tmp_path / "m/model.safetensors")
    assert sorted(name for name, value in saved.items() if value.shape[0] == VOCABULARY) == names
    pooler = sum(p.numel() for p in body.encoder.pooler.parameters())
    assert (
        sum(v.numel() for v in saved.values()) == sum(p.numel() for p in body.parameters()) - pooler
    )


def test_a_vit_and_a_gpt2_keep_their_weights_and_get_attention_between_them(tmp_path: Path) -> None:
    whole = config({})
    sees = ViTForImageClassification(ViTConfig.from_dict(whole["encoder"]))
    says = GPT2LMHeadModel(GPT2Config.from_dict({**whole["decoder"], "add_cross_attention": False}))
    publish(tmp_path / "whole")
    for name, body in (("vit", sees), ("gpt2", says)):
        body.save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "preprocessor_config.json"):
            shutil.copy(tmp_path / "whole" / file, tmp_path / name)
    torch.manual_seed(0)
    decoder, tokenizer = opened(encoder=str(tmp_path / "vit"), decoder=str(tmp_path / "gpt2"))
    kept = sees.vit.state_dict().items()
    assert all(torch.equal(decoder.encoder.state_dict()[name], value) for name, value in kept)
    assert all(
        torch.equal(decoder.words.state_dict()[name], value)
        for name, value in says.transformer.state_dict().items()
    )
    new = [name for name in decoder.words.state_dict() if name not in says.transformer.state_dict()]
    assert new
    assert all("cross" in name for name in new)
    assert decoder.words.h[1].crossattention.c_attn.weight.std().item() == pytest.approx(
        0.2, rel=0.1
    )
    torch.manual_seed(0)
    again, _ = opened(encoder=str(tmp_path / "vit"), decoder=str(tmp_path / "gpt2"))
    assert all(
        torch.equal(again.state_dict()[name], value) for name, value in decoder.state_dict().items()
    )
    assert decoder(features(), captions(tokenizer)[0]).isfinite().all()


def test_all_weights_are_trained(pair) -> None:  # type: ignore[no-untyped-def]
    assert all(weight.requires_grad for weight in pair[1].parameters())


def test_random_weights_need_no_more_than_a_config() -> None:
    """The vocabulary then consists of the captions' words."""
    tokenizer, sizes = read(model=str(MODEL), weights="random")
    assert (
        sizes.known["config"]["decoder"]["vocab_size"]
        == len(tokenizer)
        == 4 + len(set(" ".join(TEXTS).split()))
    )
    assert sizes.known["config"]["decoder_start_token_id"] == tokenizer.special.start
    decoder = build_decoder("vit_gpt2", sizes, {"model": str(MODEL), "weights": "random"})
    assert decoder.project(torch.zeros(24)).shape == (len(tokenizer),)


def test_without_its_preprocessor_a_random_model_has_the_colours_of_the_first_vit(
    tmp_path: Path,
) -> None:
    shutil.copy(MODEL / "config.json", tmp_path)
    known = read(model=str(tmp_path), weights="random")[1].known
    assert (known["mean"], known["std"]) == ([0.5] * 3, [0.5] * 3)


def rewrite(folder: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = read_json(folder / file)
    change(content)
    write_json(folder / file, content)


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.transformer.h.1.crossattention.c_attn.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            "has no config.json: put there what the model's page on the hub lists",
        ),
        (lambda f: (f / "config.json").write_text("{"), "cannot be used (JSONDecodeError: "),
        (lambda f: (f / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json: put there"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be used ("),
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            "has no preprocessor_config.json: put there",
        ),
        (
            lambda f: (f / "preprocessor_config.json").write_text("{}"),
            "lacks image_mean or image_std: add them",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be used (OSError: "),
        (
            lose_a_weight,
            "lack 1 parts of the model (first: "
            "decoder.transformer.h.1.crossattention.c_attn.weight)",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c.update(model_type="clip")),
            "is a model of type 'clip', not vision-encoder-decoder (see its config.json)",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c["decoder"].update(model_type="bert")),
            "is a model of type 'bert', not gpt2 (see its config.json)",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c["encoder"].update(model_type="swin")),
            "is a model of type 'swin', not vit or deit (see its config.json)",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c["decoder"].update(n_head=5)),
            "cannot be used (ValueError: ",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c["decoder"].update(vocab_size=200)),
            "has more tokens than vocab_size 200 in its config.json",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c.update(decoder_start_token_id=50256)),
            "decoder_start_token_id in config.json of",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c["decoder"].update(eos_token_id=5000)),
            "is not a token of its tokenizer.json: set it to the token that ends a caption",
        ),
        (
            lambda f: rewrite(f, "config.json", lambda c: c["encoder"].update(image_size=[4, 6])),
            "is [4, 6], but must be one number: pictures are square",
        ),
    ],
)
def test_what_is_wrong_with_a_models_folder_is_one_line(
    folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    publish(folder)
    damage(folder)
    with pytest.raises(UserError) as error:
        opened(model=str(folder))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"model": "a/b", "encoder": "c/d", "decoder": "e/f"},
        {"encoder": "a/b"},
        {"model": "a/b", "decoder": "c/d"},
    ],
)
def test_a_model_or_a_pair_must_be_given(args: dict[str, str]) -> None:
    with pytest.raises(
        UserError, match=r"^args of a vit_gpt2: give `model`, or both `encoder` and `decoder`$"
    ):
        read(**args)


def test_a_name_on_the_hub_without_a_network_says_where_the_files_may_lie() -> None:
    with pytest.raises(UserError) as error:
        read(model="nlpconnect/vit-gpt2-image-captioning")
    assert str(error.value).startswith(
        "vit_gpt2: config.json of 'nlpconnect/vit-gpt2-image-captioning' is neither in the hub's cache"
    )
    assert "HF_HOME" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_one_line() -> None:
    with pytest.raises(
        UserError,
        match=r"^vit_gpt2: '/no/such folder' cannot be used \(.*\): .*or name a local folder$",
    ):
        read(model="/no/such folder")


@pytest.mark.parametrize("positions", [9, 15, 196])
def test_pictures_of_another_size_are_one_line(pair, positions: int) -> None:  # type: ignore[no-untyped-def]
    message = (
        rf"sees pictures of 4 x 4 pixels, the features have {positions} positions: set "
        rf"image_size of .* pixels to 4$"
    )
    with pytest.raises(UserError, match=message):
        pair[1].start(Features(torch.zeros(1, positions, 3), torch.zeros(1, 3)))


def test_features_that_are_no_pictures_are_one_line() -> None:
    tokenizer, sizes = read(model=str(MODEL), weights="random")
    with pytest.raises(
        UserError, match=r"^vit_gpt2 sees pictures, not a grid 768 wide: give it .* encoder pixels$"
    ):
        Decoder(Sizes(768, 768, len(tokenizer), sizes.known), model=str(MODEL), weights="random")


def test_a_caption_that_is_too_long_for_the_model_is_one_line(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    tokens, _ = captions(tokenizer, B, 41)
    assert decoder(features(), tokens[:, :40]).shape[1] == 40
    with pytest.raises(
        UserError,
        match=r"this model reads 40 tokens: lower max_words of the corpus or decode\.max_tokens$",
    ):
        decoder(features(), tokens)
