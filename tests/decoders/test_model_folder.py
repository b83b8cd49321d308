"""A damaged model folder, or one whose files do not match, gives an error of one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.captioner.captioner import GREEDY, Captioner
from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, load_model, save_model
from pipeline.decoders.shared.tokenizers import Tokenizer, word_tokenizer

ARGS = {"embedding": 4, "hidden": 4, "dropout": 0.0}


def parts() -> tuple[Any, Tokenizer, dict[str, Any]]:
    tokenizer = word_tokenizer(["a red dog", "a blue dog"], 1)
    sizes = {"grid": 3, "pooled": 5, "vocabulary": len(tokenizer), "known": {}}
    torch.manual_seed(1)
    decoder = build_decoder("merge", Sizes(**sizes), ARGS)
    encoder = {"name": "pixels", "args": {"image_size": 8}, "dtype": "float16"}
    return (
        decoder,
        tokenizer,
        {"decoder": "merge", "args": ARGS, "sizes": sizes, "encoder": encoder},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "m", *parts())
    return tmp_path / "m"


def config(folder: Path, **changes: Any) -> None:
    told = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in told.items() if v != "gone"}))


def weights(folder: Path, change: Any) -> None:
    found = load_file(folder / "model.safetensors")
    name = sorted(found)[0]
    found[name] = change(found[name].clone())
    save_file({k: v for k, v in found.items() if v is not None}, folder / "model.safetensors")


def spoilt(values: Tensor, value: float) -> Tensor:
    values.view(-1)[-1] = value
    return values


TAMPERED: dict[str, tuple[Any, str]] = {
    "half a config": (
        lambda f: (f / "config.json").write_text("{"),
        r"config\.json is not a readable JSON file: Expecting property name",
    ),
    "a list": (
        lambda f: (f / "config.json").write_text("[]"),
        r"config\.json: expected keys with values, found a list",
    ),
    "no sizes": (lambda f: config(f, sizes="gone"), r"config\.json: sizes: missing"),
    "no width": (
        lambda f: config(f, sizes={"grid": 3, "vocabulary": 8, "known": {}}),
        r"config\.json: sizes\.pooled: missing",
    ),
    "a width in words": (
        lambda f: config(f, sizes={"grid": 3, "pooled": "5", "vocabulary": 8, "known": {}}),
        r"config\.json: sizes\.pooled: expected a whole number, found",
    ),
    "another decoder": (
        lambda f: config(f, decoder="mrge"),
        r"config\.json: unknown decoder 'mrge'",
    ),
    "another argument": (
        lambda f: config(f, args={**ARGS, "depth": 2}),
        r"config\.json: args: unknown argument 'depth'",
    ),
    "other widths": (
        lambda f: config(f, args={**ARGS, "hidden": 6}),
        r"model\.safetensors: '\S+' is torch\.float32 \(.*\), config\.json wants torch\.float32",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        r"model\.safetensors cannot be read as weights",
    ),
    "half the weights": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-40]
        ),
        r"model\.safetensors cannot be read as weights",
    ),
    "a weight too few": (lambda f: weights(f, lambda _: None), r"model\.safetensors lacks '"),
    "whole numbers": (
        lambda f: weights(f, lambda w: w.int()),
        r"is torch\.int32 \(.*\), config\.json wants torch\.float32",
    ),
    "NaN": (lambda f: weights(f, lambda w: spoilt(w, float("nan"))), r"' is not finite: dvc"),
    "infinity": (lambda f: weights(f, lambda w: spoilt(w, float("-inf"))), r"' is not finite: dvc"),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        r"tokenizer\.json is not a model's tokenizer: Exception",
    ),
    "fewer words": (
        lambda f: word_tokenizer(["dog"], 1).save(f / "tokenizer.json"),
        r"tokenizer\.json has 5 words, config\.json says 8",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_model_folder_is_one_line(folder: Path, case: str) -> None:
    change, message = TAMPERED[case]
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_a_weight_of_the_largest_size_is_no_infinity(folder: Path) -> None:
    """The sum of the weights overflows although each of them is finite."""
    weights(folder, lambda w: torch.full_like(w, torch.finfo(torch.float32).max))
    assert load_model(folder)[2]["decoder"] == "merge"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, value: float) -> None:
    decoder, tokenizer, about = parts()
    with torch.no_grad():
        next(decoder.parameters()).view(-1)[0] = value
    with pytest.raises(
        UserError, match=r"^m: after training, the weights '\S+' are not finite: low"
    ):
        save_model(tmp_path / "m", decoder, tokenizer, about)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"beam": 0}', r"decode\.json: beam: expected at least 1, found 0"),
        (
            '{"beams": 3}',
            r"decode\.json: beams: unknown key \(did you mean 'beam'\?\): dvc repro writes it anew",
        ),
        ("[3]", r"decode\.json: expected keys with values, found a list"),
        ("{", r"decode\.json is not a readable JSON file"),
    ],
)
def test_a_stale_or_damaged_decode_json_is_one_line(folder: Path, text: str, message: str) -> None:
    (folder / "decode.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Captioner.load(folder, "cpu")


def test_an_older_decode_json_is_filled_up_with_greedy(folder: Path) -> None:
    (folder / "decode.json").write_text('{"beam": 4}')
    assert Captioner.load(folder, "cpu").decode == {**GREEDY, "beam": 4}
