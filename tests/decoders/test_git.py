"""GIT, compared with transformers' GitForCausalLM with the same weights."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.captioner.captioner import GREEDY
from pipeline.captioning.captions import caption_features
from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.decoders.git import Decoder, outline
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, load_model, save_model
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.search import beam_search, greedy
from tests.decoders.test_properties import close, padded_batch
from tests.published import (
    PIECES,
    captions,
    features,
    opened,
    pixels,
    publish,
    read,
    their_tokenizer,
)

# The class token and 2 x 2 patches.
PATCHES = 5
CLS, SEP = 1, 2


def published(folder: Path, untied: bool = True, varied: bool = False) -> Any:
    mine = {"vocab_size": len(PIECES), "bos_token_id": CLS, "eos_token_id": SEP, "pad_token_id": 0}
    return publish(folder, "git", mine, untied, varied=varied)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder, Tokenizer]:
    folder = tmp_path_factory.mktemp("published")
    body = published(folder)
    return body, *opened("git", model=str(folder))


@pytest.mark.parametrize("untied", [False, True])
@torch.no_grad()
def test_logits_equal_those_of_transformers_with_the_same_weights(
    folder: Path, untied: bool
) -> None:
    body = published(folder, untied)
    decoder, tokenizer = opened("git", model=str(folder))
    assert (decoder.output is None) != untied
    ours, theirs = captions(tokenizer, [CLS])
    expected = body(pixel_values=pixels(features()), input_ids=theirs).logits[:, PATCHES:]
    assert expected.shape == (4, 6, len(PIECES))
    assert expected.std() > 0.5
    close(decoder(features(), ours), expected, 1e-4)


@torch.no_grad()
def test_rows_of_the_same_image_equal_transformers_with_repeated_images(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer = pair
    rows = torch.tensor([2, 0, 0, 3, 2, 2, 0])
    ours, theirs = captions(tokenizer, [CLS], len(rows))
    expected = body(pixel_values=pixels(features())[rows], input_ids=theirs).logits[:, PATCHES:]
    close(decoder(features(), ours, rows), expected, 1e-4)


@torch.no_grad()
def test_greedy_captions_equal_those_that_transformers_generates(folder: Path) -> None:
    body, f = published(folder, varied=True), features(12)
    decoder, tokenizer = opened("git", model=str(folder))
    theirs = body.generate(pixel_values=pixels(f), num_beams=1, do_sample=False, max_new_tokens=9)
    found = greedy(decoder, f, tokenizer.special, 9)
    assert len({h.tokens for h in found}) > 3
    for h, row in zip(found, theirs[:, 1:].tolist(), strict=True):
        assert list(h.tokens) == row[: len(h.tokens)]
        assert set(row[len(h.tokens) :]) <= {0}


def test_loss_and_gradients_equal_those_of_transformers(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer = pair
    tokens, mask, rows = padded_batch()
    theirs = tokens.clone()
    tokens[:, 0], theirs[:, 0] = tokenizer.special.start, CLS
    labels = theirs.masked_fill(~mask, -100)
    decoder.zero_grad(), body.zero_grad()
    loss = decoder.loss(features(), tokens, mask, rows)
    expected = body(pixel_values=pixels(features())[rows], input_ids=theirs, labels=labels).loss
    assert loss.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.cross_entropy.backward(), expected.backward()
    for ours, other in (
        (decoder.projection.visual_projection[0], body.git.visual_projection.visual_projection[0]),
        (decoder.words.word_embeddings, body.git.embeddings.word_embeddings),
        (decoder.layers[0].attention.self.key, body.git.encoder.layer[0].attention.self.key),
    ):
        close(ours.weight.grad, other.weight.grad, 1e-3 * other.weight.grad.abs().max().item())


def test_the_picture_is_seen_once_for_all_its_captions_and_steps(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    seen: list[tuple[int, ...]] = []
    modules = [decoder.projection, decoder.layers[1].attention.self.key]
    hooks = [
        m.register_forward_hook(lambda _m, _a, out: seen.append(tuple(out.shape[:2])))
        for m in modules
    ]
    tokens, _ = captions(tokenizer, [CLS], 6)
    decoder(features(2), tokens, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert seen == [(2, PATCHES), (2, PATCHES), (6, 6)]
    seen.clear()
    beam_search(decoder, features(2), tokenizer.special, 3, 4, 0.0)
    assert seen[:2] == [(2, PATCHES)] * 2
    assert {length for _, length in seen[2:]} == {1}
    for hook in hooks:
        hook.remove()


def test_in_training_dropout_falls_on_words_and_attention(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer = pair
    ours, _ = captions(tokenizer, [CLS])
    still = decoder(features(), ours)
    try:
        decoder.train()
        assert (decoder(features(), ours) - still).abs().max() > 0.1
    finally:
        decoder.eval()


def test_a_trained_model_is_loaded_without_the_files_and_each_weight_is_saved_once(
    folder: Path, tmp_path: Path
) -> None:
    body = published(folder, untied=False)
    decoder, tokenizer = opened("git", model=str(folder))
    sizes = asdict(read("git", model=str(folder))[1])
    save_model(
        tmp_path / "m",
        decoder,
        tokenizer,
        {"decoder": "git", "args": {"model": "a/b"}, "sizes": sizes},
    )
    shutil.rmtree(folder)
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    decode = {**GREEDY, "beam": 3, "max_tokens": 7, "length_penalty": 0.6, "alternatives": 3}
    assert caption_features(loaded, its_tokenizer, features(), decode) == caption_features(
        decoder, tokenizer, features(), decode
    )
    saved = load_file(tmp_path / "m/model.safetensors")
    assert sum(v.numel() for v in saved.values()) == sum(p.numel() for p in body.parameters())


def test_the_words_of_a_caption_are_joined_as_transformers_joins_them(pair, folder: Path) -> None:  # type: ignore[no-untyped-def]
    published(folder)
    _, _, tokenizer = pair
    ids = tokenizer.encode(["Two cats sits on a dog ' s mat ."])[0]
    assert tokenizer.decode(ids) == their_tokenizer(folder).decode(
        ids[1:-1], skip_special_tokens=True
    )
    assert PIECES.index("##s") in ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_image_with_embedding": 6},
            "captions films, not pictures (num_image_with_embedding in its config.json)",
        ),
        ({"eos_token_id": 500}, "eos_token_id in config.json of"),
        ({"bos_token_id": 500}, f"is 500, no id below {len(PIECES)}"),
        ({"model_type": "clip"}, "is a model of type 'clip', not git (see its config.json)"),
    ],
)
def test_what_is_wrong_with_a_models_folder_is_one_line(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    published(folder)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **changes})
    with pytest.raises(UserError) as error:
        opened("git", model=str(folder))
    assert message in str(error.value)
    assert str(error.value).startswith("git: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "millions"), [("microsoft/git-base-coco", 177), ("microsoft/git-large-coco", 394)]
)
def test_the_published_models_are_counted_without_their_files(name: str, millions: int) -> None:
    """The Hub states the same numbers of parameters."""
    found = outline(model=name)
    assert found is not None
    words, known = found
    with torch.device("meta"):
        decoder = build_decoder("git", Sizes(3, 3, words, known), {"model": name})
    assert sum(p.numel() for p in decoder.parameters()) == pytest.approx(millions * 1e6, abs=1e6)
    assert outline(model="another/model") is None
