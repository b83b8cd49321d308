"""Which pretrained models a row names, with the defaults of its decoder."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.core import registry
from pipeline.experiment.params import Dataset, FeatureSet, Params, load_params
from pipeline.results.pretrained import data_set, pretrained
from pipeline.results.result import Result, Setting, as_json, from_json, variant_result
from tests.workspace import ROOT


def one(decoder: str, encoder: str, args: dict[str, Any], seen_by: dict[str, Any]) -> Params:
    """A row `one` of that decoder and encoder; nothing else of the params matters here."""
    params = load_params(ROOT / "experiments/quickstart.yaml")
    row = next(iter(params.variants.values()))
    features = FeatureSet(
        dataset="scenes", encoder=encoder, args=seen_by, dtype="float16", keep="both"
    )
    row = row.model_copy(update={"decoder": decoder, "args": args, "features": "mine"})
    return params.model_copy(update={"variants": {"one": row}, "features": {"mine": features}})


PIXELS = ("pixels", {"image_size": 224})
TIMM = {"image_size": 224, "resize": "squash"}


@pytest.mark.parametrize(
    ("decoder", "args", "encoder", "named"),
    [
        ("merge", {}, ("timm_model", {"model": "vgg16.tv_in1k", "weights": "hub", **TIMM}), ("vgg16.tv_in1k",)),
        ("merge", {}, ("timm_model", {"model": "vgg16", "weights": "random", **TIMM}), ()),
        ("merge", {}, ("timm_model", {"model": "vgg16", "weights": "mine.safetensors", **TIMM}), ("file mine.safetensors",)),
        ("merge", {"vectors": "glove/glove.6B.50d.txt"}, PIXELS, ()),
        ("prefix_lm", {}, ("clip", {"model": "openai/clip-vit-base-patch32"}), ("openai/clip-vit-base-patch32", "gpt2")),
        ("prefix_lm", {"lm": "package"}, PIXELS, ("SmolLM2-135M",)),
        ("prefix_lm", {"lm": "gpt2", "lm_weights": "random"}, PIXELS, ()),
        ("prefix_lm", {"lm": "gpt2", "checkpoint": "clipcap/coco_weights.pt"}, PIXELS, ("file clipcap/coco_weights.pt",)),
        ("blind", {}, ("clip", {"model": "openai/clip-vit-large-patch14"}), ("openai/clip-vit-large-patch14", "gpt2")),
        ("blip", {"model": "Salesforce/blip-image-captioning-base"}, PIXELS, ("Salesforce/blip-image-captioning-base",)),
        ("blip", {"model": "Salesforce/blip-image-captioning-base", "weights": "random"}, PIXELS, ()),
        ("vit_gpt2", {"encoder": "google/vit-base-patch16-224", "decoder": "gpt2"}, PIXELS, ("google/vit-base-patch16-224", "gpt2")),
    ],
)  # fmt: skip
def test_a_row_names_the_pretrained_models_it_is_made_of_and_none_with_random_weights(
    decoder: str, args: dict[str, Any], encoder: tuple[str, dict[str, Any]], named: tuple[str, ...]
) -> None:
    assert pretrained(one(decoder, encoder[0], args, encoder[1]), "one") == named


def test_a_part_that_inherits_its_constructor_may_be_made_of_any_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "signature", lambda kind, name: None)
    assert pretrained(one("mine", "pixels", {}, {}), "one") == ("encoder pixels", "decoder mine")


@pytest.mark.parametrize("kind", ["decoders", "encoders"])
def test_every_part_of_the_project_states_its_defaults(kind: str) -> None:
    assert all(registry.signature(kind, name) for name in registry.names(kind))


def test_a_data_set_of_the_hub_is_named_with_its_source() -> None:
    assert data_set(Dataset(source="coco2014", args={"archives": "x"})) == "coco2014"
    hub = Dataset(source="hugging_face", args={"name": "nlphuji/flickr30k"})
    assert data_set(hub) == "hugging_face nlphuji/flickr30k"


def row(tmp_path: Path) -> Result:
    params = one("blip", "pixels", {"model": "Salesforce/blip-image-captioning-base"}, PIXELS[1])
    setting = Setting("scenes", "official", {}, {})
    corpus = params.variants["one"].corpus
    params = params.model_copy(update={"corpora": {corpus: next(iter(params.corpora.values()))}})
    return variant_result("one", params, setting, tmp_path)


def test_the_models_and_the_data_set_of_a_row_are_published_with_it(tmp_path: Path) -> None:
    before = row(tmp_path)
    after = from_json(as_json(before), tmp_path / "resamples.parquet")
    assert before.pretrained == after.pretrained == ("Salesforce/blip-image-captioning-base",)
    assert before.data == after.data == "scenes"


def test_a_row_that_was_published_before_has_neither(tmp_path: Path) -> None:
    published = as_json(row(tmp_path))
    del published["data"], published["pretrained"]
    old = from_json(published, tmp_path / "resamples.parquet")
    assert (old.data, old.pretrained) == ("", ())
