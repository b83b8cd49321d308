"""Exports of decoders with low-rank adapters: a folder of peft, or weights with the adapters added.

A folder of peft names the base model and holds none of its weights.
"""

from copy import copy, deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.captioner.captioner import Captioner
from pipeline.decoders.shared import four_bits
from pipeline.decoders.shared.frozen_base import Decoder


def write_adapter(body: Any, config: Any, model: str, revision: str, folder: Path) -> None:
    """Write the adapters in a model of transformers, as `peft.AutoPeftModel` reads them.

    Args:
        config: their LoraConfig.
        model: name of the base model.
        revision: its revision on the hub; empty for the newest.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = deepcopy(config)
    config.base_model_name_or_path, config.revision = model, revision or None
    config.inference_mode = True
    kind = type(body)
    config.auto_mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    weights: dict[str, Tensor] = get_peft_model_state_dict(body)
    save_file(
        {f"base_model.model.{name}": value.contiguous() for name, value in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder))


def whole(captioner: Captioner) -> Captioner:
    """Return the captioner with the adapters added to the weights, if its decoder has any, and
    with no weights of 4 bits."""
    decoder = captioner.decoder
    if not isinstance(decoder, Decoder):
        return captioner
    if decoder.adapter is None and not four_bits.is_used(decoder):
        return captioner
    found, about = copy(captioner), captioner.config
    left_out = ("lora", "quantise")
    args = {name: value for name, value in about["args"].items() if name not in left_out}
    found.decoder, found.config = decoder.without_adapter(), {**about, "args": args}
    return found
