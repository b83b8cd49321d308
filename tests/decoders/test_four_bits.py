"""Weights of 4 bits: what they stand for, what is trained beside them, and what a folder holds."""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Params4bit
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipeline.captioner.captioner import GREEDY
from pipeline.captioning.footprint import of_decoder
from pipeline.core.errors import UserError
from pipeline.decoders.shared import four_bits
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.four_bits import FourBitLinear
from pipeline.decoders.shared.lora import is_adapter, plain_name
from pipeline.decoders.shared.model_folder import build_decoder, load_model, save_model
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoders.shared.vision_decoder import Decoder
from pipeline.decoders.vlm import outline
from pipeline.decoding.search import greedy
from pipeline.experiment.params import Training
from pipeline.training.checks import check_options
from tests.training.test_trainer import ARGS, OPTIONS, trainer
from tests.vision_language import (
    OPENINGS,
    SIDE,
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
PACKED = {"tune": "adapter", "quantise": "4bit"}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / request.param
    publish(folder, request.param)
    return folder


def packed(layer: nn.Linear) -> FourBitLinear:
    """Return the layer with its weights in 4 bits."""
    holder: Any = nn.Module()
    holder.layer, holder._keep_in_fp32_modules = layer, None
    holder.get_output_embeddings = lambda: None
    four_bits.replace(holder, holder, filled=True)
    found = holder.layer
    assert isinstance(found, FourBitLinear)
    return found


def of_bitsandbytes(layer: nn.Linear) -> Linear4bit:
    """Return bitsandbytes' own layer, in training mode, where it is exact on every CPU."""
    how = {"compress_statistics": False, "quant_type": "nf4"}
    dtype = layer.weight.dtype
    found = Linear4bit(layer.in_features, layer.out_features, compute_dtype=dtype, **how)
    weight = layer.weight.detach().clone()
    found.weight = Params4bit(weight, requires_grad=False, blocksize=64, **how)
    found.bias = layer.bias
    return found.to("cpu").train()


def save(
    decoder: Decoder, tokenizer: Tokenizer, sizes: Sizes, args: dict[str, Any], to: Path
) -> None:
    encoder = {"name": "pixels", "args": {"image_size": SIDE}}
    name = type(decoder).__module__.rpartition(".")[2]
    about = {"decoder": name, "args": args, "sizes": asdict(sizes), "encoder": encoder}
    save_model(to, decoder, tokenizer, about)


@torch.no_grad()
def logits(decoder: Any, tokenizer: Tokenizer) -> Tensor:
    tokens = torch.tensor(tokenizer.encode(["a red dog"] * 4))
    found: Tensor = decoder.eval()(features(), tokens[:, :-1])
    return found


def packed_weights(decoder: Decoder) -> dict[str, Tensor]:
    every = decoder.body.state_dict().items()
    return {name: weight.clone() for name, weight in every if not is_adapter(name)}


def test_four_weights_are_two_bytes_and_a_scale() -> None:
    """NF4's values are -1, .., 0 (number 7), .., 0.4407 (number 12), .., 1 (number 15)."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[2.0, -2.0], [0.0, 1.0]])
    found = packed(layer)
    assert found.codes.tolist() == [15 * 16 + 0, 7 * 16 + 12]
    assert found.scales.tolist() == [2.0]
    expected = torch.tensor([[2.0, -2.0], [0.0, 2 * 0.44070982933044434]])
    assert torch.equal(found.weight, expected)
    assert found(torch.tensor([3.0, 1.0])).tolist() == [4.0, expected[1, 1].item()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_and_its_gradient_equal_those_of_bitsandbytes(
    dtype: torch.dtype, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 40, bias, dtype=dtype)
    ours, theirs = packed(layer), of_bitsandbytes(layer)
    state = theirs.weight.quant_state
    assert torch.equal(ours.codes, theirs.weight.data.flatten())
    assert torch.equal(ours.scales, state.absmax)
    assert torch.equal(ours.weight, functional.dequantize_4bit(theirs.weight.data, state))
    x = torch.randn(3, 5, 96, dtype=dtype)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(given) for module, given in zip((ours, theirs), inputs, strict=True)]
    assert torch.equal(outputs[0], linear(x, ours.weight, layer.bias))
    assert torch.equal(*outputs)
    for out in outputs:
        out.sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert (ours.weight - layer.weight).abs().max() > 0.001


def test_backward_finds_the_weights_again_instead_of_keeping_them() -> None:
    layer, kept = packed(nn.Linear(32, 48)), list[tuple[int, ...]]()
    x = torch.randn(2, 32, requires_grad=True)
    with saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        out = layer(x)
    assert (48, 32) not in kept
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 48) @ layer.weight)


def test_a_layer_takes_part_in_autocast() -> None:
    layer, x = packed(nn.Linear(64, 32)), torch.randn(3, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    weight, bias = (w.to(torch.bfloat16) for w in (layer.weight, layer.bias))
    assert torch.equal(out, linear(x.to(torch.bfloat16), weight, bias))
    out.float().sum().backward()
    assert x.grad.dtype == torch.float32


def test_a_model_computes_with_the_values_that_bitsandbytes_gives_its_language_model(
    folder: Path,
) -> None:
    decoder, tokenizer, *_ = opened(folder, **PACKED)
    reference, *_ = opened(folder)
    layers = {
        plain_name(f"{name}.").rstrip("."): layer
        for name, layer in decoder.body.named_modules()
        if isinstance(layer, FourBitLinear)
    }
    assert layers
    vision = decoder.body.get_encoder(modality="image").modules()
    assert not any(isinstance(layer, FourBitLinear) for layer in vision)
    assert not isinstance(decoder.body.get_output_embeddings(), FourBitLinear)
    exact = logits(reference, tokenizer)
    for name in layers:
        weight = reference.body.get_submodule(name).weight
        codes, state = functional.quantize_4bit(weight.data, blocksize=64, quant_type="nf4")
        weight.data = functional.dequantize_4bit(codes, state)
    assert torch.equal(logits(decoder, tokenizer), logits(reference, tokenizer))
    assert (exact - logits(reference, tokenizer)).abs().max() > 0.1


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_trained_beside_weights_of_4_bits_which_stay_as_they_are(
    folder: Path, dora: bool
) -> None:
    decoder, tokenizer, *_ = opened(folder, **PACKED, lora={"rank": 2, "dora": dora})
    trained = {name for name, weight in decoder.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in decoder.named_parameters() if is_adapter(name)} != set()
    said = [h.tokens for h in greedy(decoder, features(), tokenizer.special, 8)]
    before = packed_weights(decoder)
    losses = losses_on_one_caption(decoder, tokenizer)
    assert losses[-1] < 0.7 * losses[0]
    after = packed_weights(decoder)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [h.tokens for h in greedy(decoder.eval(), features(), tokenizer.special, 8)] != said


@pytest.mark.parametrize("name", ["vlm", "vlm_seq2seq"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_kinds_of_training_change_the_adapter_alone(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARGS, name, {**ARGS[name], **PACKED, "lora": {"rank": 2}})
    t = trainer(tmp_path, name, epochs=1, self_critical_epochs=1, precision=precision)
    before = packed_weights(t.decoder)
    adapters = {n: w.clone() for n, w in t.decoder.named_parameters() if "lora_B" in n}
    assert len(t.run()) == 2
    after = packed_weights(t.decoder)
    assert all(torch.equal(after[n], weight) for n, weight in before.items())
    trained = dict(t.decoder.named_parameters())
    assert any(not torch.equal(trained[n], weight) for n, weight in adapters.items())


def test_layers_that_are_computed_again_give_the_same_gradients(folder: Path) -> None:
    gradients = []
    for again in (False, True):
        decoder, tokenizer, *_ = opened(folder, **PACKED, lora={"rank": 2}, checkpointing=again)
        tokens = torch.tensor(tokenizer.encode(["a red dog"] * 4))
        mask = torch.ones_like(tokens, dtype=torch.bool)
        tuned(decoder).train().loss(features(), tokens, mask).total.backward()
        gradients.append({n: w.grad for n, w in decoder.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[1][name], value) for name, value in gradients[0].items())


def test_a_row_of_4_bits_and_one_without_name_the_same_base(folder: Path) -> None:
    plain, *_ = opened(folder, tune="adapter")
    decoder, *_ = opened(folder, **PACKED)
    assert torch.equal(plain.base, decoder.base)
    assert plain.base.any()
    half, *_ = opened(folder, tune="adapter", dtype="bfloat16")
    packed_half, *_ = opened(folder, **PACKED, dtype="bfloat16")
    assert torch.equal(half.base, packed_half.base)


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_folder_holds_the_adapter_alone_and_is_loaded_to_equal_logits(
    folder: Path, tmp_path: Path, dora: bool
) -> None:
    decoder, tokenizer, sizes, args = opened(folder, **PACKED, lora={"rank": 2, "dora": dora})
    save(tuned(decoder), tokenizer, sizes, args, tmp_path / "m")
    names = set(load_file(tmp_path / "m/model.safetensors"))
    assert all(name == "base" or is_adapter(name) for name in names)
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    assert torch.equal(logits(loaded, its_tokenizer), logits(decoder, tokenizer))


def test_a_zero_shot_model_of_4_bits_is_a_folder_without_weights(
    folder: Path, tmp_path: Path
) -> None:
    decoder, tokenizer, sizes, args = opened(folder, quantise="4bit")
    save(decoder, tokenizer, sizes, args, tmp_path / "m")
    assert list(load_file(tmp_path / "m/model.safetensors")) == ["base"]
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    assert torch.equal(logits(loaded, its_tokenizer), logits(decoder, tokenizer))


def test_random_weights_are_saved_in_4_bits(tmp_path: Path) -> None:
    publish(tmp_path / "llava", "llava")
    decoder, tokenizer, sizes, args = opened(tmp_path / "llava", **PACKED, weights="random")
    assert any(
        layer.weight.any() for layer in decoder.modules() if isinstance(layer, FourBitLinear)
    )
    save(tuned(decoder), tokenizer, sizes, args, tmp_path / "m")
    held = load_file(tmp_path / "m/model.safetensors")
    assert {w.dtype for name, w in held.items() if name.endswith(".codes")} == {torch.uint8}
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    assert torch.equal(logits(loaded, its_tokenizer), logits(decoder, tokenizer))


def test_another_base_is_one_line(tmp_path: Path) -> None:
    publish(tmp_path / "llava", "llava")
    decoder, tokenizer, sizes, args = opened(tmp_path / "llava", **PACKED)
    save(decoder, tokenizer, sizes, args, tmp_path / "m")
    publish(tmp_path / "llava", "llava", seed=7)
    with pytest.raises(UserError, match=r"was trained on other weights than .* holds now: name"):
        load_model(tmp_path / "m")
    wider = {"intermediate_size": 32}
    publish(tmp_path / "llava", "llava", text=wider)
    with pytest.raises(UserError, match=r"^vlm: .*'.*llava'"):
        load_model(tmp_path / "m")


def test_without_the_package_a_row_is_planned_and_loading_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "llava", "llava")
    decoder, tokenizer, sizes, args = opened(tmp_path / "llava", **PACKED)
    save(decoder, tokenizer, sizes, args, tmp_path / "m")
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    message = (
        "args.quantise: 4bit needs the Python package bitsandbytes: "
        'pip install "captionlab[quantise]" (in a clone: make env)'
    )
    for use in (
        lambda: load_model(tmp_path / "m"),
        lambda: opened(tmp_path / "llava", **PACKED),
        lambda: opened(tmp_path / "llava", **PACKED, weights="random"),
    ):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value).endswith(message)
        assert "\n" not in str(error.value)
    assert of_decoder("vlm", sizes, args, SIDE**2).weights > 0


def test_all_weights_or_none_cannot_be_trained_in_4_bits(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        opened(folder, quantise="4bit", tune="all")
    assert str(error.value) == (
        "args.quantise: 4bit leaves nothing that args.tune: all could train, since weights of 4 "
        "bits have no gradient: set tune to adapter, or remove quantise"
    )
    decoder, *_ = opened(folder, quantise="4bit")
    with pytest.raises(UserError, match=r"train.epochs is 2, and no weight .* set args.tune to"):
        check_options(Training(**{**OPTIONS, "epochs": 2}), decoder)
    with pytest.raises(UserError, match=r"args.quantise: expected .*'4bit'"):
        opened(folder, quantise="8bit")


def test_the_plan_counts_the_bytes_that_a_real_model_takes(folder: Path) -> None:
    decoder, _, sizes, args = opened(folder, **PACKED, lora={"rank": 2}, dtype="bfloat16")
    real = sum(weight.nbytes for weight in decoder.parameters())
    planned = of_decoder(decoder_of(folder), sizes, args, SIDE**2)
    assert planned.weights == real
    full = {key: value for key, value in args.items() if key != "quantise"}
    layers = [m for m in decoder.modules() if isinstance(m, FourBitLinear)]
    saved = sum(
        2 * m.in_features * m.out_features - m.codes.nbytes - m.scales.nbytes for m in layers
    )
    assert of_decoder(decoder_of(folder), sizes, full, SIDE**2).weights == real + saved
    counts = four_bits.published_sizes(decoder)
    plain, *_ = opened(folder, tune="adapter", lora={"rank": 2}, dtype="bfloat16")
    assert sum(n for n, _ in counts.values()) == sum(w.numel() for w in plain.parameters())
    assert sum(size for _, size in counts.values()) == sum(w.nbytes for w in plain.parameters())


def test_a_model_of_4_billion_parameters_is_planned_by_hand() -> None:
    """36 layers of Qwen2.5-VL-3B: queries and outputs 2048 x 2048, keys and values 256 x 2048, and
    three of 11008 x 2048. Everything else is bfloat16."""
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    found = outline(model=name)
    assert found is not None
    layers = 36 * 2048 * (2 * 2048 + 2 * 256 + 3 * 11008)
    args = {"model": name, "dtype": "bfloat16", "quantise": "4bit"}
    expected = layers // 2 + 4 * layers // 64 + 2 * (3_754_622_976 - layers)
    assert expected == 3_520_856_064
    assert of_decoder("vlm", Sizes(3, 3, *found), args, 9).weights == expected
    with torch.device("meta"):
        decoder = build_decoder("vlm", Sizes(3, 3, *found), args)
    sizes = four_bits.published_sizes(decoder)
    assert sum(n for n, _ in sizes.values()) == 3_754_622_976
    assert sum(size for _, size in sizes.values()) == 2 * 3_754_622_976


def test_an_exported_adapter_says_the_same_on_a_base_that_transformers_packs_itself(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bitsandbytes' faster layer for CPUs with AVX-512 takes no layers as narrow as these."""
    from captionlab.export import export
    from pipeline.captioner.captioner import Captioner

    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    decoder, tokenizer, sizes, args = opened(folder, **PACKED, lora={"rank": 2})
    save(tuned(decoder), tokenizer, sizes, args, tmp_path / "m")
    captioner = Captioner.load(tmp_path / "m", "cpu", {**GREEDY, "max_tokens": 8})
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    assert not list((tmp_path / "hf").glob("model*.safetensors"))
    card = (tmp_path / "hf/README.md").read_text()
    found = re.search(r"```python\n(from peft.*?)```", card, re.S)
    assert found
    seen: dict[str, Any] = {}
    exec(found[1].replace("this/folder", str(tmp_path / "hf")), seen)
    model, processor = seen["model"].eval(), seen["processor"]
    theirs = {n for n, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    ours = {n for n, layer in decoder.named_modules() if isinstance(layer, FourBitLinear)}
    assert {n.removeprefix("base_model.model.") for n in theirs} == {
        n.removeprefix("body.") for n in ours
    }
    opening = OPENINGS.get(folder.name)
    said = greedy(decoder, features(4), tokenizer.special, 8)
    for picture, mine in zip(pictures(4), said, strict=True):
        inputs = processor(text=[question(processor)], images=[[picture]], return_tensors="pt")
        inputs.pop("labels", None)
        out = model.generate(**inputs, do_sample=False, max_new_tokens=9)
        found_tokens = out[0, len(opening) if opening else inputs["input_ids"].shape[1] :].tolist()
        assert list(mine.tokens) == found_tokens[: len(mine.tokens)]


@pytest.mark.parametrize("tune", ["nothing", "adapter"])
def test_what_is_no_adapter_on_a_published_base_is_exported_with_its_values_written_out(
    tune: str, tmp_path: Path
) -> None:
    from captionlab.export import export
    from pipeline.captioner.captioner import Captioner

    publish(tmp_path / "llava", "llava")
    args = {"tune": tune, "quantise": "4bit"}
    args |= {"weights": "random", "lora": {"rank": 2}} if tune == "adapter" else {}
    decoder, tokenizer, sizes, args = opened(tmp_path / "llava", **args)
    save(tuned(decoder), tokenizer, sizes, args, tmp_path / "m")
    captioner = Captioner.load(tmp_path / "m", "cpu", {**GREEDY, "max_tokens": 8})
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    assert four_bits.is_used(captioner.decoder)
    card = " ".join((tmp_path / "hf/README.md").read_text().split())
    assert "The row's weights took 4 bits each (NF4). Here they are written out in float32" in card
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    assert AutoProcessor.from_pretrained(tmp_path / "hf").tokenizer
    asked = decoder.inputs(torch.arange(3 * SIDE**2).view(1, 3, SIDE, SIDE).byte())
    with torch.no_grad():
        ours, theirs = decoder.body(**asked).logits, model(**asked).logits
    assert torch.allclose(ours, theirs, atol=1e-3)
