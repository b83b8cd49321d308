"""Tiny published models of the decoders that take `lora`, and these decoders with adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.frozen_base import Decoder
from pipeline.decoders.shared.lora import is_adapter, plain_name
from pipeline.decoders.shared.model_folder import build_decoder, read_vocabulary
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features
from tests import published
from tests.decoders import test_blip, test_git, test_prefix_lm, test_vit_gpt2


def publish_lm(folder: Path, family: str = "gpt2") -> Any:
    """Write a language model without biases, which would outweigh what it reads."""
    lm = test_prefix_lm.pretrained(folder, family)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            weight.mul_(0 if name.endswith("bias") else 1)
    lm.save_pretrained(folder)
    return lm


PUBLISH: dict[str, Callable[[Path], Any]] = {
    "blip": lambda folder: test_blip.published(folder, untied=True, varied=True),
    "git": lambda folder: test_git.published(folder, varied=True),
    "prefix_lm": publish_lm,
    "vit_gpt2": test_vit_gpt2.publish,
}
# The argument that names the base.
BASE = {name: "lm" if name == "prefix_lm" else "model" for name in PUBLISH}
TEXTS = ["a red dog runs on grass", "two cats sit on a mat"]


def opened(
    name: str, folder: Path, pooled: int = 3, grid: int = 3, **args: Any
) -> tuple[Decoder, Tokenizer, dict[str, Any]]:
    """Return a decoder on the base in `folder` as `train` makes it, its tokenizer and config.json."""
    args = {BASE[name]: str(folder), **args}
    tokenizer, known = read_vocabulary(name, TEXTS, 1, args, "args")
    sizes = {"grid": grid, "pooled": pooled, "vocabulary": len(tokenizer), "known": known}
    torch.manual_seed(0)
    decoder = build_decoder(name, Sizes(**sizes), args)
    decoder.load_pretrained(tokenizer)
    assert isinstance(decoder, Decoder)
    return decoder.eval(), tokenizer, {"decoder": name, "args": args, "sizes": sizes}


def features(n: int = 4) -> Features:
    """Return n random pictures, and pooled vectors that differ as much."""
    generator = torch.Generator().manual_seed(4)
    return Features(published.features(n).grid, torch.randn(n, 3, generator=generator))


def tuned(decoder: Decoder, size: float = 1.0) -> Decoder:
    """Return the decoder with adapters that have an effect: at first their second factor is
    zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "lora_B" in name:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
            if "magnitude" in name:
                weight.mul_(1 + 0.3 * torch.rand(weight.shape, generator=generator))
    return decoder


def base_weights(decoder: Decoder) -> dict[str, Tensor]:
    """Return copies of the base's weights, under the names that they have without adapters."""
    trained = {name for name, weight in decoder.named_parameters() if weight.requires_grad}
    return {
        plain_name(name): weight.clone()
        for name, weight in decoder.state_dict().items()
        if not is_adapter(name) and name not in trained and name != "base"
    }


def change(folder: Path) -> None:
    """Change the weights of the base in a folder a little."""
    file = folder / "model.safetensors"
    weights = {name: weight * 1.01 for name, weight in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
