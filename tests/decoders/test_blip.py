"""BLIP, compared with transformers' BlipForConditionalGeneration with the same weights."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.captioner.captioner import GREEDY
from pipeline.captioning.captions import caption_features
from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.decoders.blip import Decoder, outline
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, load_model, save_model
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.search import beam_search, greedy
from pipeline.features.features import Features
from tests.decoders.test_properties import close, padded_batch
from tests.published import (
    MODELS,
    PIECES,
    captions,
    features,
    opened,
    pixels,
    publish,
    read,
    their_tokenizer,
)

# Rows of the embedding. The published models' start token lies beyond their tokenizer's words.
ROWS = len(PIECES) + 2
START = len(PIECES)
PROMPT = "A picture of"


def published(folder: Path, untied: bool = False, varied: bool = False) -> Any:
    mine = {"vocab_size": ROWS, "bos_token_id": START, "sep_token_id": 2, "pad_token_id": 0}
    return publish(folder, "blip", mine, untied, part="text_config", varied=varied)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder, Tokenizer, Path]:
    folder = tmp_path_factory.mktemp("published")
    body = published(folder)
    return body, *opened("blip", model=str(folder)), folder


@pytest.mark.parametrize("untied", [False, True])
@torch.no_grad()
def test_logits_equal_those_of_transformers_with_the_same_weights(
    folder: Path, untied: bool
) -> None:
    body = published(folder, untied)
    decoder, tokenizer = opened("blip", model=str(folder))
    assert (decoder.output is None) != untied
    ours, theirs = captions(tokenizer, [START])
    expected = body(pixel_values=pixels(features()), input_ids=theirs).logits
    assert expected.shape == (4, 6, ROWS)
    assert expected.std() > 0.5
    close(decoder(features(), ours), expected, 1e-4)


@torch.no_grad()
def test_rows_of_the_same_image_equal_transformers_with_repeated_images(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer, _ = pair
    rows = torch.tensor([2, 0, 0, 3, 2, 2, 0])
    ours, theirs = captions(tokenizer, [START], len(rows))
    close(
        decoder(features(), ours, rows),
        body(pixel_values=pixels(features())[rows], input_ids=theirs).logits,
        1e-4,
    )


@torch.no_grad()
def test_a_prompt_stands_before_the_words_and_start_is_its_last(pair) -> None:  # type: ignore[no-untyped-def]
    body, _, _, folder = pair
    decoder, tokenizer = opened("blip", model=str(folder), prompt=PROMPT)
    asked = [START, *their_tokenizer(folder)(PROMPT)["input_ids"][1:-1]]
    assert len(asked) == 4
    ours, theirs = captions(tokenizer, asked)
    expected = body(pixel_values=pixels(features()), input_ids=theirs).logits[:, 3:]
    close(decoder(features(), ours), expected, 1e-4)
    rows = torch.tensor([1, 1, 0, 3])
    expected = body(pixel_values=pixels(features())[rows], input_ids=theirs).logits[:, 3:]
    close(decoder(features(), ours, rows), expected, 1e-4)


@pytest.mark.parametrize("prompt", ["", PROMPT])
@torch.no_grad()
def test_greedy_captions_equal_those_that_transformers_generates(folder: Path, prompt: str) -> None:
    """Use untied weights, because a tied matrix of random weights repeats the same word.

    Trained weights never generate tokens beyond the tokenizer's words. Random weights might, so
    `generate` suppresses these tokens; our decoder cannot generate them.
    """
    body, f = published(folder, untied=True, varied=True), features(12)
    decoder, tokenizer = opened("blip", model=str(folder), prompt=prompt)
    words = their_tokenizer(folder)
    asked: dict[str, Any] = (
        {"input_ids": torch.tensor(words([prompt] * 12)["input_ids"])} if prompt else {}
    )
    asked |= {
        "num_beams": 1,
        "do_sample": False,
        "max_new_tokens": 9,
        "suppress_tokens": [START, START + 1],
    }
    theirs = body.generate(pixels(f), **asked)
    said = 4 if prompt else 1
    found = greedy(decoder, f, tokenizer.special, 9)
    assert len({h.tokens for h in found}) > 3
    assert any(h.tokens[-1] == 2 for h in found)
    for h, row in zip(found, theirs[:, said:].tolist(), strict=True):
        assert list(h.tokens) == row[: len(h.tokens)]
        assert set(row[len(h.tokens) :]) <= {0}
        assert tokenizer.decode(h.tokens) == words.decode(row, skip_special_tokens=True)


def test_loss_and_gradients_equal_those_of_transformers(pair) -> None:  # type: ignore[no-untyped-def]
    body, decoder, tokenizer, _ = pair
    tokens, mask, rows = padded_batch()
    tokens = tokens.masked_fill(tokens >= ROWS, 5)
    theirs = tokens.clone()
    tokens[:, 0], theirs[:, 0] = tokenizer.special.start, START
    labels = theirs.masked_fill(~mask, -100)
    decoder.zero_grad(), body.zero_grad()
    loss = decoder.loss(features(), tokens, mask, rows)
    expected = body(pixel_values=pixels(features())[rows], input_ids=theirs, labels=labels).loss
    assert loss.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.cross_entropy.backward(), expected.backward()
    says = body.text_decoder
    for ours, other in (
        (decoder.encoder.embeddings.patch_embedding, body.vision_model.embeddings.patch_embedding),
        (decoder.words.word_embeddings, says.bert.embeddings.word_embeddings),
        (
            decoder.layers[0].crossattention.self.key,
            says.bert.encoder.layer[0].crossattention.self.key,
        ),
        (decoder.transform.dense, says.cls.predictions.transform.dense),
    ):
        close(ours.weight.grad, other.weight.grad, 1e-3 * other.weight.grad.abs().max().item())


def test_the_picture_is_seen_once_for_all_its_captions_and_steps(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer, _ = pair
    seen: list[int] = []
    modules = [
        decoder.encoder.embeddings,
        *(layer.crossattention.self.key for layer in decoder.layers),
    ]
    hooks = [m.register_forward_hook(lambda _m, _a, out: seen.append(len(out))) for m in modules]
    tokens, _ = captions(tokenizer, [START], 6)
    decoder(features(2), tokens, torch.tensor([0, 0, 0, 1, 1, 1]))
    beam_search(decoder, features(2), tokenizer.special, 3, 5, 0.0)
    assert seen == [2] * 6
    for hook in hooks:
        hook.remove()


def test_a_trained_model_is_loaded_without_the_files_and_each_weight_is_saved_once(
    folder: Path, tmp_path: Path
) -> None:
    body = published(folder)
    args = {"model": str(folder), "prompt": PROMPT}
    decoder, tokenizer = opened("blip", **args)
    sizes = asdict(read("blip", **args)[1])
    save_model(
        tmp_path / "m",
        decoder,
        tokenizer,
        {"decoder": "blip", "args": {**args, "model": "a/b"}, "sizes": sizes},
    )
    shutil.rmtree(folder)
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    decode = {**GREEDY, "beam": 3, "max_tokens": 7, "length_penalty": 1.0, "alternatives": 3}
    assert caption_features(loaded, its_tokenizer, features(), decode) == caption_features(
        decoder, tokenizer, features(), decode
    )
    saved = load_file(tmp_path / "m/model.safetensors")
    assert sum(v.numel() for v in saved.values()) == sum(p.numel() for p in body.parameters())


def change(folder: Path, **values: Any) -> None:
    content = read_json(folder / "config.json")
    for part in (content, content["text_config"], content["vision_config"]):
        part |= {key: values[key] for key in values if key in part}
    write_json(folder / "config.json", content)


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("text_decoder.bert.encoder.layer.1.crossattention.self.key.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            "has no config.json: put there what the model's page on the hub lists",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json: put there"),
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            "has no preprocessor_config.json: put there",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be used (OSError: "),
        (
            lose_a_weight,
            "lack 1 parts of the model (first: "
            "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight)",
        ),
        (
            lambda f: change(f, model_type="blip-2"),
            "is a model of type 'blip-2', not blip (see its config.json)",
        ),
        (lambda f: change(f, num_attention_heads=5), "cannot be used (ValueError: "),
        (lambda f: change(f, sep_token_id=500), "sep_token_id in config.json of"),
        (lambda f: change(f, bos_token_id=500), f"is 500, no id below {ROWS}"),
        (
            lambda f: change(f, vocab_size=9, bos_token_id=1),
            "has more tokens than vocab_size 9 in its config.json",
        ),
        (
            lambda f: change(f, image_size=[4, 6]),
            "is [4, 6], but must be one number: pictures are square",
        ),
    ],
)
def test_what_is_wrong_with_a_models_folder_is_one_line(
    folder: Path, damage: Any, message: str
) -> None:
    published(folder)
    damage(folder)
    with pytest.raises(UserError) as error:
        opened("blip", model=str(folder))
    assert message in str(error.value)
    assert str(error.value).startswith("blip: ")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_features_must_be_pictures_of_the_models_size(pair) -> None:  # type: ignore[no-untyped-def]
    _, decoder, tokenizer, folder = pair
    with pytest.raises(
        UserError,
        match=r"^blip: this model sees pictures of 4 x 4 pixels, the features have 9 positions: "
        r"set ",
    ):
        decoder.start(Features(torch.zeros(1, 9, 3), torch.zeros(1, 3)))
    sizes = read("blip", model=str(folder))[1]
    with pytest.raises(
        UserError,
        match=r"^blip sees pictures, not a grid 768 wide: give it features of the encoder pixels$",
    ):
        build_decoder("blip", Sizes(768, 768, len(tokenizer), sizes.known), {"model": str(folder)})


def test_a_name_that_is_not_in_the_cache_is_one_line_without_a_network() -> None:
    with pytest.raises(
        UserError,
        match=r"^blip: config.json of 'Salesforce/blip-vqa-base' is neither in the hub's cache "
        r".*HF_HOME",
    ):
        read("blip", model="Salesforce/blip-vqa-base")


def test_random_weights_need_no_more_than_a_config() -> None:
    tokenizer, sizes = read(
        "blip", model=str(MODELS / "blip"), weights="random", prompt="a picture"
    )
    says = sizes.known["config"]["text_config"]
    special = tokenizer.special
    assert (says["vocab_size"], says["bos_token_id"], says["sep_token_id"]) == (
        len(tokenizer),
        special.start,
        special.end,
    )
    assert len(sizes.known["prompt"]) == 2


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("Salesforce/blip-image-captioning-base", 224),
        ("Salesforce/blip-image-captioning-large", 446),
    ],
)
def test_the_published_models_are_counted_without_their_files(name: str, millions: int) -> None:
    """The Hub states 247 and 470 million: it counts the tied matrix of 30,524 x 768 twice."""
    found = outline(model=name)
    assert found is not None
    words, known = found
    with torch.device("meta"):
        decoder = build_decoder("blip", Sizes(3, 3, words, known), {"model": name})
    assert sum(p.numel() for p in decoder.parameters()) == pytest.approx(millions * 1e6, abs=1e6)
    assert outline(model="another/model") is None
