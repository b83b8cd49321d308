"""Weights of the published implementation of ClipCap (Mokady et al., 2021; coco_weights.pt), for a
`prefix_lm`."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.core.errors import UserError, brief
from pipeline.decoders.shared import lora as adapters

if TYPE_CHECKING:
    from pipeline.decoders.prefix_lm import Decoder

# Parts of the published names of weights, and of ours.
RENAMED = {
    "gpt.transformer.": "body.",
    "gpt.lm_head.": "head.",
    "clip_project.model.0.": "mapping.hidden.",
    "clip_project.model.2.": "mapping.output.",
    "clip_project.linear.": "mapping.image.",
    "clip_project.prefix_const": "mapping.constants",
    "clip_project.transformer.layers.": "mapping.layers.",
    ".norm1.": ".norm_attention.",
    ".norm2.": ".norm_feedforward.",
    ".attn.project.": ".attended.",
    ".mlp.fc1.": ".feedforward.0.",
    ".mlp.fc2.": ".feedforward.2.",
}


def take_checkpoint(decoder: "Decoder", path: str, keep: Collection[str] = ()) -> None:
    """Load the published weights into a decoder, around its adapters.

    Args:
        keep: names of weights that stay as they are.

    Raises:
        UserError: the file is missing, is not a state dict, or belongs to a model of other sizes.
    """
    ours = {
        adapters.plain_name(name): weight
        for name, weight in decoder.state_dict().items()
        if name != "base" and not adapters.is_adapter(name)
    }
    theirs = _renamed(_read_checkpoint(path))
    if (
        decoder.head is None
        and "head.weight" in theirs
        and torch.equal(theirs["head.weight"], theirs["body.wte.weight"])
    ):
        del theirs["head.weight"]
    shapes = "its prefix, mapping, clip_length, mapping_layers, lm, and the width of the features"
    if unknown := sorted(theirs.keys() - ours.keys()):
        raise UserError(
            f"args.checkpoint: {path} holds weights that this model lacks (first: "
            f"{unknown[0]}): compare {shapes}"
        )
    if lacking := sorted(ours.keys() - theirs.keys()):
        raise UserError(
            f"args.checkpoint: {path} lacks weights of this model (first: {lacking[0]}): "
            f"compare {shapes}"
        )
    for name, value in theirs.items():
        if value.shape != ours[name].shape:
            sizes = f"{list(value.shape)}, not {list(ours[name].shape)}"
            raise UserError(f"args.checkpoint: {name} of {path} is {sizes}: compare {shapes}")
    adapters.load_base(decoder, {name: v for name, v in theirs.items() if name not in keep})


def _read_checkpoint(path: str) -> dict[str, Tensor]:
    try:
        content = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"args.checkpoint: there is no file {path}: put the published weights there"
        ) from None
    except Exception as error:  # zip files, pickles and disks fail in many ways
        raise UserError(
            f"args.checkpoint: {path} cannot be read ({brief(error)}): expected a state "
            "dict of torch"
        ) from None
    if not isinstance(content, dict) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise UserError(
            f"args.checkpoint: {path} holds no state dict: save model.state_dict() with torch.save"
        )
    return content


def _renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under our names.

    Queries are joined with keys and values. The masks that old versions of GPT-2 kept as weights
    are left out.
    """
    ours: dict[str, Tensor] = {}
    for name, value in theirs.items():
        for part, new in RENAMED.items():
            name = name.replace(part, new)
        if not (name.startswith("body.") and name.endswith((".attn.bias", ".attn.masked_bias"))):
            ours[name] = value.float()
    for name in [name for name in ours if name.endswith(".attn.to_queries.weight")]:
        layer = name.removesuffix("attn.to_queries.weight")
        keys_values = ours.pop(
            f"{layer}attn.to_keys_values.weight", torch.empty(0, ours[name].shape[-1])
        )
        ours[f"{layer}queries_keys_values.weight"] = torch.cat([ours.pop(name), keys_values])
    return ours
