"""CLIP and SigLIP give the pixels, embeddings and grids of transformers' own classes.

Both have the same weights.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pipeline.core.errors import UserError
from pipeline.encoders import clip
from tests.encoders.test_properties import MODELS, close, noise

KINDS = ["clip", "siglip"]
MODEL = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
PIL: dict[str, Any] = {
    "clip": CLIPImageProcessorPil(),
    "siglip": SiglipImageProcessorPil(size={"height": 96, "width": 96}),
}
TORCH: dict[str, Any] = {
    "clip": CLIPImageProcessor(),
    "siglip": SiglipImageProcessor(size={"height": 96, "width": 96}),
}
TEXTS = ["a dog runs", "Two  men, on a red boat at sea", "", "naïve 犬", "word " * 300]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(kind: str, model: Path | str = "", weights: Any = "random") -> clip.Encoder:
    return clip.Encoder(model=str(model or MODELS / kind), weights=weights)


def reference(kind: str, seed: int = 0) -> Any:
    """Return transformers' model of tests/models/<kind> with random weights from this seed."""
    config, model = MODEL[kind]
    torch.manual_seed(seed)
    return model(config.from_pretrained(MODELS / kind)).eval()


def published(kind: str, folder: Path, seed: int = 5) -> Any:
    """Write a model folder as the Hub holds it, with weights and tokenizer; return the model."""
    model = reference(kind, seed)
    model.save_pretrained(folder)
    PIL[kind].save_pretrained(folder)
    build(kind).tokenizer.save_pretrained(folder)
    return model


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1_000_000)])
def test_a_picture_one_pixel_wide_is_never_scaled_to_gigabytes(
    kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would scale the whole picture before it crops."""
    scaled, resize = [], Image.Image.resize

    def noted(self: Image.Image, to: tuple[int, int], *args: Any, **options: Any) -> Image.Image:
        scaled.append(to[0] * max(to[1], self.height))  # the width is scaled first
        assert scaled[-1] < 10**7
        return resize(self, to, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    encoder = build(kind)
    pixels = encoder.transform(Image.new("RGB", size, (10, 20, 30)))
    assert scaled
    assert pixels.flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]


@pytest.mark.parametrize(
    "size", [(500, 375), (61, 60), (333, 60), (60, 501), (224, 224), (97, 1201)]
)
def test_the_pixels_are_those_of_transformers_image_processor(
    kind: str, size: tuple[int, int]
) -> None:
    """The pixels equal those of the Pillow processor, up to rounding in the normalisation.

    The torchvision processor rounds between its two passes. It differs from the Pillow processor by
    up to 12 of 255 grey levels at hard edges, and by less than a tenth of one on average.
    """
    encoder, picture = build(kind), noise(*size)
    pixels = encoder.transform(picture)
    ours = (pixels - encoder.mean) / encoder.std
    assert pixels.dtype == torch.uint8
    close(ours, PIL[kind](picture, return_tensors="pt").pixel_values, 1e-5)
    levels = (ours - TORCH[kind](picture, return_tensors="pt").pixel_values).abs() * encoder.std
    assert levels.max() < 13
    assert levels.mean() < 0.1


def test_clip_crops_the_middle_and_siglip_squashes_the_whole() -> None:
    thirds = Image.fromarray(np.repeat(np.array([[0, 128, 255]], np.uint8), 3, 0)).resize(
        (300, 100), Image.Resampling.NEAREST
    )
    assert [build(kind).crops for kind in KINDS] == [True, False]
    clip_row, siglip_row = (
        build(kind).transform(thirds.convert("RGB"))[0, 40].tolist() for kind in KINDS
    )
    assert set(clip_row[10:-10]) == {128}
    assert [siglip_row[n] for n in (4, 48, 91)] == [0, 128, 255]


def test_a_picture_is_embedded_as_transformers_does(kind: str) -> None:
    encoder, theirs = build(kind), reference(kind)
    pictures = [noise(320, 240), noise(60, 100, 1), noise(224, 224, 2)]
    with torch.inference_mode():
        out = theirs.get_image_features(PIL[kind](pictures, return_tensors="pt").pixel_values)
    ours = encoder(torch.stack([encoder.transform(picture) for picture in pictures]))
    close(ours.pooled, unit(out.pooler_output), 1e-5)
    close(ours.pooled.norm(dim=-1), torch.ones(3), 1e-6)


def test_an_embedding_may_keep_its_length(kind: str) -> None:
    """ClipCap's published weights were trained on the output of the projection, not normalised."""
    encoder, theirs = (
        clip.Encoder(model=str(MODELS / kind), weights="random", normalise=False),
        reference(kind),
    )
    picture = noise(320, 240)
    with torch.inference_mode():
        expected = theirs.get_image_features(
            PIL[kind](picture, return_tensors="pt").pixel_values
        ).pooler_output
    assert abs(expected.norm() - 1) > 0.1
    close(encoder(encoder.transform(picture)[None]).pooled, expected, 1e-5)


def test_the_grid_is_the_patches_after_the_last_layer_norm(kind: str) -> None:
    encoder, theirs = build(kind), reference(kind)
    picture = noise(320, 240)
    with torch.inference_mode():
        pixels = PIL[kind](picture, return_tensors="pt").pixel_values
        hidden = theirs.vision_model(pixels, output_hidden_states=True).hidden_states[-1]
        tokens = theirs.vision_model.post_layernorm(hidden)
    assert hidden.shape[1] == {"clip": 17, "siglip": 9}[kind]
    ours = encoder(encoder.transform(picture)[None]).grid
    assert ours.shape == (1, {"clip": 16, "siglip": 9}[kind], 32)
    close(ours, tokens[:, -ours.shape[1] :], 1e-5)


def test_texts_are_embedded_as_transformers_does(kind: str) -> None:
    encoder, theirs = build(kind), reference(kind)
    longest = {"clip": 20, "siglip": 12}[kind]
    padding = {"clip": True, "siglip": "max_length"}[kind]
    tokens = encoder.tokenizer(
        TEXTS, padding=padding, truncation=True, max_length=longest, return_tensors="pt"
    )
    asked = tokens if kind == "clip" else {"input_ids": tokens["input_ids"]}
    with torch.inference_mode():
        expected = unit(theirs.get_text_features(**asked).pooler_output)
    close(encoder.texts(TEXTS), expected, 1e-5)
    assert expected.shape == (5, encoder.pooled_dim)


def test_a_text_alone_equals_the_text_among_others(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build(kind)
    together = encoder.texts(TEXTS)
    close(torch.cat([encoder.texts([text]) for text in TEXTS]), together, 1e-5)
    monkeypatch.setattr(clip, "TEXTS", 2)
    close(encoder.texts(TEXTS), together, 1e-5)
    assert (together @ together.T - torch.eye(5)).abs().fill_diagonal_(0).max() < 0.9999, (
        "no two texts have one embedding"
    )
    assert encoder.texts([]).shape == (0, encoder.pooled_dim)


def test_the_test_tokenizer_is_clips_without_merges() -> None:
    """In CLIP's vocabulary, `a` is 64 within a word and 320 at its end.

    49406 and 49407 are the start and the end of a text.
    """
    tokenizer = clip._byte_tokenizer(clip._config("openai/clip-vit-large-patch14", "random"))
    assert tokenizer("A aa")["input_ids"] == [49406, 320, 64, 320, 49407]


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        ("openai/clip-vit-base-patch32", (49, 768, 512, 151_277_313)),
        ("openai/clip-vit-large-patch14", (256, 1024, 768, 427_616_513)),
        ("google/siglip-base-patch16-224", (196, 768, 768, 203_155_970)),
    ],
)
def test_the_known_models_can_be_costed_without_a_network(
    model: str, shapes: tuple[int, ...]
) -> None:
    assert clip.shapes(model=model) == shapes


def test_a_folder_as_the_hub_holds_it_is_read_with_its_own_weights_and_tokenizer(
    kind: str, tmp_path: Path
) -> None:
    theirs = published(kind, tmp_path)
    encoder = build(kind, tmp_path, "hub")
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        TEXTS,
        padding="max_length",
        truncation=True,
        max_length={"clip": 20, "siglip": 12}[kind],
        return_tensors="pt",
    )
    with torch.inference_mode():
        out = theirs.get_image_features(
            PIL[kind](noise(320, 240), return_tensors="pt").pixel_values
        )
        texts = theirs.get_text_features(tokens["input_ids"])
    close(encoder(encoder.transform(noise(320, 240))[None]).pooled, unit(out.pooler_output), 1e-5)
    close(encoder.texts(TEXTS), unit(texts.pooler_output), 1e-5)
    assert encoder.body.dtype == torch.float32


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def test_the_folders_own_preprocessing_is_followed(tmp_path: Path) -> None:
    published("clip", tmp_path)
    edit(
        tmp_path / "preprocessor_config.json",
        size={"shortest_edge": 300},
        resample=0,
        image_mean=[0.1, 0.2, 0.3],
    )
    encoder, picture = build("clip", tmp_path, "hub"), noise(320, 240)
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 300}, resample=0, image_mean=[0.1, 0.2, 0.3]
    )
    ours = (encoder.transform(picture) - encoder.mean) / encoder.std
    close(ours, theirs(picture, return_tensors="pt").pixel_values, 1e-5)


def refused(message: str, model: Path | str, weights: str = "hub") -> None:
    with pytest.raises(UserError, match=message) as error:
        build("clip", model, weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", ["hub", "random"])
def test_a_folder_that_holds_no_such_model_is_one_line(tmp_path: Path, weights: str) -> None:
    file = tmp_path / "config.json"
    refused(
        "has no config.json: put there what the model's page on the hub lists$",
        tmp_path,
        weights,
    )
    file.write_text("{")
    refused(r"config.json is not JSON \(JSONDecodeError: ", tmp_path, weights)
    file.write_text('{"model_type": "bert"}')
    refused("is a model of type 'bert': this encoder takes clip and siglip", tmp_path, weights)
    file.write_text('{"model_type": "clip", "vision_config": {"hidden_size": "wide"}}')
    refused(r"^config.json of '.*' cannot be used \(.*hidden_size", tmp_path, weights)


def test_a_folder_without_weights_or_with_those_of_another_model_is_one_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text((MODELS / "clip" / "config.json").read_text())
    refused(
        r"cannot be used \(OSError: .*\): put there what the model's page on the hub lists$",
        tmp_path,
    )
    published("clip", tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    edit(
        tmp_path / "config.json", vision_config={**content["vision_config"], "num_hidden_layers": 3}
    )
    refused(
        r"^the weights of '.*' lack 16 parts of the model \(first: vision_model.encoder.layers.2",
        tmp_path,
    )


def test_pictures_that_do_not_fit_the_model_are_one_line(tmp_path: Path) -> None:
    published("clip", tmp_path)
    edit(tmp_path / "preprocessor_config.json", crop_size={"height": 112, "width": 112})
    refused(
        r"cannot see the pictures that its own preprocessor_config.json makes "
        r"\(.*112\*112.*agree with config.json$",
        tmp_path,
    )


def test_a_tokenizer_that_is_missing_is_told_when_a_text_comes(tmp_path: Path) -> None:
    published("clip", tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    encoder = build("clip", tmp_path, "hub")
    with pytest.raises(
        UserError,
        match=r"^'.*' has no tokenizer files: put tokenizer.json there, or vocab.json and "
        r"merges.txt$",
    ):
        encoder.texts(["a dog"])


@pytest.mark.parametrize("model", ["openai/clip-vit-large-patch14", "somebody/else"])
def test_a_hub_name_without_network_is_one_line_that_says_where_to_put_it(model: str) -> None:
    refused(
        rf"^'{model}' cannot be used \(.*\): put it in the hub's cache /.*hub \(HF_HOME "
        rf"moves it\), or name a local",
        model,
    )


@pytest.mark.parametrize("model", ["/nowhere/clip", "./clip", "a b"])
def test_what_is_neither_folder_nor_hub_name_is_one_line(model: str) -> None:
    refused(rf"^model '{model}': no such folder, and no name on the hub \(owner/name\)$", model)
