"""models/<variant>/: a decoder as safetensors, JSON and tokenizer.json. No pickles, no training
code needed to load."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.registry import check_args, load
from pipeline.data.files import read_json, whole_folder, write_json
from pipeline.decoders.shared.contract import Decoder, Sizes
from pipeline.decoders.shared.tokenizers import Tokenizer


def build_decoder(name: str, sizes: Sizes, args: dict[str, Any], where: str = "args") -> Decoder:
    """Bind `args` from params.yaml to the decoder file of that name."""
    cls = load("decoders", name).Decoder
    check_args(cls.__init__, args, where)
    return cls(sizes, **args)


def check_grid(name: str, positions: int, where: str) -> None:
    """Attention over one position always looks there: it would train, and be none.

    Raises:
        UserError: the decoder file of that name attends, and the features have no grid.
    """
    if load("decoders", name).Decoder.attends and positions < 2:
        raise UserError(
            f"{where}: {name} attends to the positions of a grid, and these features have "
            "none: name an encoder that gives "
            "a map or patches, or a decoder of the pooled vector (merge, lstm, prefix_lm)"
        )


def read_vocabulary(
    name: str, texts: Iterable[str], min_count: int, args: dict[str, Any], where: str
) -> tuple[Tokenizer, dict[str, Any]]:
    """What the decoder file of that name makes of the captions: its tokenizer, and
    `Sizes.known`."""
    cls = load("decoders", name).Decoder
    check_args(cls.__init__, args, where)
    tokenizer, known = cls.read(texts, min_count, args)
    return tokenizer, known


def save_model(
    folder: Path, decoder: Decoder, tokenizer: Tokenizer, config: dict[str, Any]
) -> None:
    """Write the folder whole. `config` must hold `decoder`, `args` and `sizes`; the rest is for
    readers and the captioner."""
    from safetensors.torch import save

    with whole_folder(folder) as part:
        weights = {k: v.detach().cpu().contiguous() for k, v in decoder.state_dict().items()}
        (part / "model.safetensors").write_bytes(
            save(weights)
        )  # save_file hides a full disk in an error of its own
        tokenizer.save(part / "tokenizer.json")
        write_json(part / "config.json", config)


def load_model(folder: Path, device: str = "cpu") -> tuple[Decoder, Tokenizer, dict[str, Any]]:
    """Decoder in evaluation mode, its tokenizer and config.json.

    Raises:
        UserError: the folder is no model of this project, or lacks a file.
    """
    from safetensors.torch import load_file

    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a model folder: {name} is missing (dvc repro makes "
                "models/<variant>)"
            )
    config = read_json(folder / "config.json")
    decoder = build_decoder(config["decoder"], Sizes(**config["sizes"]), config["args"])
    decoder.load_state_dict(load_file(folder / "model.safetensors"))
    return (
        decoder.to(device).eval().requires_grad_(False),
        Tokenizer.load(folder / "tokenizer.json"),
        config,
    )
