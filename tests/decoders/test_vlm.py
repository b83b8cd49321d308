"""Vision-language models, compared with transformers' own generate and peft's own adapters."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from pipeline.captioner.captioner import GREEDY
from pipeline.captioning.captions import caption_features
from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, load_model, save_model
from pipeline.decoders.vlm import outline
from pipeline.decoding.search import greedy
from pipeline.experiment.params import Training
from pipeline.training.checks import check_options
from tests.training.test_trainer import OPTIONS
from tests.vision_language import (
    OPENINGS,
    SIDE,
    base_weights,
    decoder_of,
    features,
    losses_on_one_caption,
    opened,
    pictures,
    publish,
    question,
    tuned,
)

KINDS = ["llava", "qwen2_5_vl", "paligemma", *OPENINGS]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("published") / request.param
    return publish(folder, request.param), folder


@pytest.fixture(scope="module", params=["llava", *OPENINGS])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / request.param
    publish(folder, request.param)
    return folder


@torch.no_grad()
def test_greedy_captions_equal_those_that_transformers_generates_from_its_own_processor(
    pair: Any,
) -> None:
    body, folder = pair
    decoder, tokenizer, _, _ = opened(folder)
    processor = AutoProcessor.from_pretrained(folder)
    opening = OPENINGS.get(folder.name)
    found = greedy(decoder, features(6), tokenizer.special, 9)
    for picture, ours in zip(pictures(6), found, strict=True):
        inputs = processor(text=[question(processor)], images=[[picture]], return_tensors="pt")
        inputs.pop("labels", None)
        out = body.generate(**inputs, do_sample=False, max_new_tokens=10)
        read = len(opening) if opening else inputs["input_ids"].shape[1]
        assert out[0, :read].tolist() == (opening or inputs["input_ids"][0].tolist())
        theirs = out[0, read:].tolist()
        assert len(theirs) >= len(ours.tokens)
        assert list(ours.tokens) == theirs[: len(ours.tokens)]
    assert len({h.tokens for h in found}) > 1


def test_a_caption_ends_as_the_chat_template_ends_a_reply(tmp_path: Path) -> None:
    publish(tmp_path, "llava")
    _, tokenizer, _, _ = opened(tmp_path)
    assert tokenizer.inner.id_to_token(tokenizer.special.end) == "</turn>"


def test_a_zero_shot_model_is_a_folder_without_weights(folder: Path, tmp_path: Path) -> None:
    decoder, tokenizer, sizes, args = opened(folder)
    about = {"decoder": decoder_of(folder), "args": args, "sizes": asdict(sizes)}
    save_model(tmp_path / "m", decoder, tokenizer, about)
    assert list(load_file(tmp_path / "m/model.safetensors")) == ["base"]
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    decode = {**GREEDY, "beam": 2, "max_tokens": 6}
    assert caption_features(loaded, its_tokenizer, features(), decode) == caption_features(
        decoder, tokenizer, features(), decode
    )


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_begins_as_the_base_leaves_it_untouched_and_changes_the_caption(
    folder: Path, dora: bool
) -> None:
    plain, tokenizer, _, _ = opened(folder)
    decoder, _, _, _ = opened(folder, tune="adapter", lora={"rank": 2, "dora": dora})
    said = [h.tokens for h in greedy(plain, features(), tokenizer.special, 8)]
    assert [h.tokens for h in greedy(decoder, features(), tokenizer.special, 8)] == said
    before = base_weights(decoder)
    losses = losses_on_one_caption(decoder, tokenizer)
    assert losses[-1] < 0.7 * losses[0]
    after = base_weights(decoder)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [h.tokens for h in greedy(decoder.eval(), features(), tokenizer.special, 8)] != said


def test_a_model_folder_holds_the_adapter_alone_and_knows_its_base(
    folder: Path, tmp_path: Path
) -> None:
    decoder, tokenizer, sizes, args = opened(folder, tune="adapter")
    about = {"decoder": decoder_of(folder), "args": args, "sizes": asdict(sizes)}
    save_model(tmp_path / "m", tuned(decoder), tokenizer, about)
    names = set(load_file(tmp_path / "m/model.safetensors"))
    assert all(name == "base" or ".lora_" in name for name in names)
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    decode = {**GREEDY, "max_tokens": 8}
    assert caption_features(loaded, its_tokenizer, features(), decode) == caption_features(
        decoder, tokenizer, features(), decode
    )


def test_another_base_or_none_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    publish(folder, "llava")
    decoder, tokenizer, sizes, args = opened(folder, tune="adapter")
    about = {"decoder": decoder_of(folder), "args": args, "sizes": asdict(sizes)}
    save_model(tmp_path / "m", decoder, tokenizer, about)
    publish(folder, "llava", seed=7)
    with pytest.raises(
        UserError, match=r"was trained on other weights than .* holds now: name its"
    ):
        load_model(tmp_path / "m")
    folder.rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"^vlm: '.*' cannot be used") as error:
        load_model(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lora": {"targets": ["q_proj", "q_porj"]}}, "no layer is named 'q_porj': choose from"),
        ({"lora": {"rnak": 4}}, "args.lora.rnak: unknown key (did you mean 'rank'?)"),
        ({"lora": {"rank": 0}}, "args.lora.rank: expected at least 1, found 0"),
        (
            {"tune": "all", "lora": {"rank": 4}},
            "args.lora is for args.tune: adapter, and tune is all",
        ),
        ({"model": "owner/nothing"}, ": 'owner/nothing' cannot be used"),
    ],
)
def test_what_is_wrong_with_an_argument_is_one_line(
    folder: Path, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        opened(folder, **{"tune": "adapter", **args})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        UserError, match=r"\(gpt2\) is not a decoder-only vision-language model: name"
    ):
        opened(tmp_path)


def test_a_prompt_without_a_place_for_the_picture_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, "llava")
    (tmp_path / "chat_template.jinja").unlink()
    decoder, *_ = opened(tmp_path, prompt="<image> say it")
    decoder.start(features())
    with pytest.raises(
        UserError, match=r"with this prompt \(.* number of <image> tokens .*or prompt"
    ):
        opened(tmp_path, prompt="say it")


def test_a_picture_that_the_processor_refuses_is_one_line(tmp_path: Path) -> None:
    publish(tmp_path, "qwen2_5_vl")
    decoder, *_ = opened(tmp_path)
    thin = torch.zeros(1, 3, 1, 1000, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"refuses a picture of .* change image_size") as error:
        decoder.inputs(thin)
    assert "\n" not in str(error.value)


def test_epochs_for_a_model_of_which_nothing_is_trained_are_one_line(
    folder: Path, tmp_path: Path
) -> None:
    decoder, *_ = opened(folder)
    with pytest.raises(UserError, match=r"train.epochs is 2, and no weight .* set args.tune to"):
        check_options(Training(**{**OPTIONS, "epochs": 2}), decoder)


def test_a_published_model_is_counted_without_its_files() -> None:
    """The Hub states the same number of parameters."""
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    found = outline(model=name)
    assert found is not None
    with torch.device("meta"):
        decoder = build_decoder("vlm", Sizes(3, 3, *found), {"model": name})
    assert sum(weight.numel() for weight in decoder.parameters()) == 3_754_622_976
    assert outline(model="another/model") is None


def test_an_exported_adapter_says_the_same_in_plain_transformers_and_peft(
    folder: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModel

    from captionlab.export import export
    from pipeline.captioner.captioner import Captioner

    decoder, tokenizer, sizes, args = opened(folder, tune="adapter", lora={"rank": 2})
    encoder = {"name": "pixels", "args": {"image_size": SIDE}}
    about = {"decoder": decoder_of(folder), "args": args, "sizes": asdict(sizes)}
    about["encoder"] = encoder
    save_model(tmp_path / "m", tuned(decoder), tokenizer, about)
    captioner = Captioner.load(tmp_path / "m", "cpu", {**GREEDY, "max_tokens": 8})
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    assert not list((tmp_path / "hf").glob("model*.safetensors"))
    model = AutoPeftModel.from_pretrained(tmp_path / "hf").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    text, opening = question(processor), OPENINGS.get(folder.name)
    assert repr(text) in (tmp_path / "hf/README.md").read_text()
    ours = greedy(decoder, features(4), tokenizer.special, 8)
    for picture, mine in zip(pictures(4), ours, strict=True):
        inputs = processor(text=[text], images=[[picture]], return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, max_new_tokens=9)
        theirs = out[0, len(opening) if opening else inputs["input_ids"].shape[1] :].tolist()
        assert len(theirs) >= len(mine.tokens)
        assert list(mine.tokens) == theirs[: len(mine.tokens)]
