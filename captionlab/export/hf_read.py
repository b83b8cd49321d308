"""Read a folder that `captionlab export --format hf` wrote as a captioner again."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from captionlab.export.flat import MAIN
from pipeline.captioner.captioner import Captioner, whole_decode
from pipeline.core.errors import UserError, brief, check_access, let_through
from pipeline.core.machine import pick_device
from pipeline.core.registry import check_args, load
from pipeline.data.checked import read_checked, read_json
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import CaptionerConfig, build_decoder
from pipeline.decoders.shared.tokenizers import Tokenizer

CURE = "captionlab export writes it anew"


class Captions(CaptionerConfig):
    decode: dict[str, Any]


class Exported(BaseModel):
    """The part of config.json that captioning needs."""

    captioner: Captions


def is_export(folder: Path) -> bool:
    """Return whether the folder holds a model with its code, unlike a native transformers model."""
    return (folder / f"{MAIN}.py").is_file()


def check_is_ours(folder: Path) -> None:
    """Raise a UserError if a folder holds a model that transformers or peft opens without this
    project's code: an exported blip, git, vit_gpt2 or vlm, or an adapter of one."""
    theirs = ""
    if (folder / "adapter_config.json").is_file():
        theirs = "an adapter for peft"
    elif "model_type" in _config(folder):  # our own config.json has none
        theirs = "a model of transformers"
    if theirs:
        raise UserError(
            f"{folder} is {theirs}, which captionlab does not run: its README.md says how to open "
            "it, or name the model folder that it was exported from"
        )


def _config(folder: Path) -> dict[str, Any]:
    """Return config.json, or {} if it cannot be read or holds something else."""
    try:
        config = read_json(folder / "config.json")
    except UserError:
        return {}
    return config if isinstance(config, dict) else {}


def read(folder: Path, device: str | None = None) -> Captioner:
    """Return the exported captioner. It runs this project's code, not the code in the folder.

    Raises:
        UserError: a file is missing or does not fit the others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    device = device or pick_device()
    try:
        config = read_checked(folder / "config.json", Exported, CURE)["captioner"]
        decode = whole_decode(config.pop("decode"), folder / "config.json", CURE)
        about = config["encoder"]
        build = load("encoders", about["name"]).Encoder
        check_args(build.__init__, about["args"], f"{folder}/config.json: encoder.args")
        parts = {
            "encoder": build(**about["args"]),
            "decoder": build_decoder(config["decoder"], Sizes(**config["sizes"]), config["args"]),
        }
        check_access(folder / "model.safetensors")
        weights = load_file(folder / "model.safetensors")
        for name, part in parts.items():
            head = f"{name}."
            part.load_state_dict(
                {key.removeprefix(head): w for key, w in weights.items() if key.startswith(head)}
            )
            part.to(device).eval().requires_grad_(False)
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        let_through(error)
        raise UserError(f"{folder} is not a complete export ({brief(error)}): {CURE}") from None
    found = Captioner(parts["encoder"], parts["decoder"], tokenizer, decode, device)
    card = folder / "README.md"
    found.config, found.card = config, card.read_text("utf-8") if card.is_file() else ""
    return found
