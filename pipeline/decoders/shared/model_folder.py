"""models/<variant>/: a decoder as safetensors, JSON and tokenizer.json.

Loading it needs no pickles and no training code.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, PositiveInt

from pipeline.core.errors import UserError, brief, check_access
from pipeline.core.registry import check_args, load
from pipeline.data.checked import RESTORE, read_checked
from pipeline.data.files import whole_folder, write_json
from pipeline.decoders.shared.contract import Decoder, Sizes
from pipeline.decoders.shared.tokenizers import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor


def build_decoder(name: str, sizes: Sizes, args: dict[str, Any], where: str = "args") -> Decoder:
    """Return the decoder of the file of that name, built with `args` from params.yaml."""
    cls = load("decoders", name).Decoder
    check_args(cls.__init__, args, where)
    return cls(sizes, **args)


def check_grid(name: str, positions: int, where: str) -> None:
    """Check that a decoder that attends gets features with a grid.

    Attention over one position always looks there. It would train without attending to anything.

    Raises:
        UserError: the decoder file of that name attends, and the features have no grid.
    """
    if load("decoders", name).Decoder.attends and positions < 2:
        raise UserError(
            f"{where}: {name} attends to the positions of a grid, and these features have "
            "none: name an encoder that gives "
            "a map or patches, or a decoder of the pooled vector (merge, lstm, prefix_lm)"
        )


def check_keep(name: str, keep: str, where: str) -> None:
    """Raise a UserError if features that keep `keep` lack what the decoder file of that name
    reads."""
    reads = load("decoders", name).Decoder.reads
    if keep not in (reads, "both"):
        raise UserError(
            f"{where}: {name} reads {reads}, and these features keep {keep} alone: write keep: "
            f"{reads}, or keep: both where other decoders read the rest, and run dvc repro"
        )


def read_vocabulary(
    name: str, texts: Iterable[str], min_count: int, args: dict[str, Any], where: str
) -> tuple[Tokenizer, dict[str, Any]]:
    """Return what the decoder file of that name makes of the captions: its tokenizer and
    `Sizes.known`."""
    cls = load("decoders", name).Decoder
    check_args(cls.__init__, args, where)
    tokenizer, known = cls.read(texts, min_count, args)
    return tokenizer, known


def save_model(
    folder: Path, decoder: Decoder, tokenizer: Tokenizer, config: dict[str, Any]
) -> None:
    """Write the folder, whole or not at all.

    `config` must hold `decoder`, `args` and `sizes`; the rest is for readers and the captioner.

    Raises:
        UserError: a weight is NaN or infinite, for example after a last step that was too long.
    """
    from safetensors.torch import save

    if broken := _not_finite(dict(decoder.named_parameters())):
        raise UserError(
            f"{folder.name}: after training, the weights '{broken}' are not finite: lower train.lr,"
            " or set train.clip"
        )
    with whole_folder(folder) as part:
        weights = {k: v.detach().cpu().contiguous() for k, v in _saved(decoder).items()}
        (part / "model.safetensors").write_bytes(
            save(weights)
        )  # save_file would hide a full disk behind its own error
        tokenizer.save(part / "tokenizer.json")
        write_json(part / "config.json", config)


def load_model(folder: Path, device: str = "cpu") -> tuple[Decoder, Tokenizer, dict[str, Any]]:
    """Return the decoder in evaluation mode, its tokenizer and its config.json.

    Raises:
        UserError: the folder is not a model of this project or lacks a file, or a file is damaged
            or does not fit the others.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a model folder: {name} is missing (dvc repro makes "
                "models/<variant>)"
            )
    config = read_checked(folder / "config.json", ModelConfig)
    tokenizer, words = Tokenizer.load(folder / "tokenizer.json"), config["sizes"]["vocabulary"]
    if len(tokenizer) != words:
        raise UserError(
            f"{folder / 'tokenizer.json'} has {len(tokenizer)} words, config.json says {words}: "
            f"{RESTORE}"
        )
    decoder = _decoder_of(config, folder / "config.json")
    decoder.load_state_dict(_weights(folder / "model.safetensors", decoder), strict=False)
    decoder.load_base()
    return decoder.to(device).eval().requires_grad_(False), tokenizer, config


def _saved(decoder: Decoder) -> "dict[str, Tensor]":
    every = decoder.state_dict()
    return {name: every[name] for name in decoder.saved()}


class ModelSizes(BaseModel):
    grid: PositiveInt
    pooled: PositiveInt
    vocabulary: PositiveInt
    known: dict[str, Any] = {}


class ModelConfig(BaseModel):
    """The part of config.json that loading needs."""

    decoder: str
    args: dict[str, Any]
    sizes: ModelSizes


class EncoderConfig(BaseModel):
    name: str
    args: dict[str, Any]
    dtype: str = "float16"


class CaptionerConfig(ModelConfig):
    """The part of config.json that captioning of pictures needs."""

    encoder: EncoderConfig


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a model that captions pictures.

    Raises:
        UserError: it is damaged, or names no encoder.
    """
    return read_checked(folder / "config.json", CaptionerConfig)


def _decoder_of(config: dict[str, Any], path: Path) -> Decoder:
    try:
        return build_decoder(config["decoder"], Sizes(**config["sizes"]), config["args"], "args")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} does not describe a decoder: {brief(error)}: {RESTORE}") from None


def _weights(path: Path, decoder: Decoder) -> "dict[str, Tensor]":
    """Return the weights that the file holds.

    Raises:
        UserError: the file is damaged or does not fit the decoder: another name, shape or dtype, or
            a weight that is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_access(path)
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as weights: {brief(error)}: {RESTORE}") from None
    wanted = _saved(decoder)
    for name in sorted(found.keys() ^ wanted.keys()):
        has = "lacks" if name in wanted else "should not have"
        raise UserError(f"{path} {has} '{name}': {RESTORE}")
    for name, tensor in wanted.items():
        if (found[name].shape, found[name].dtype) != (tensor.shape, tensor.dtype):
            raise UserError(
                f"{path}: '{name}' is {found[name].dtype} {tuple(found[name].shape)}, config.json "
                f"wants {tensor.dtype} {tuple(tensor.shape)}: {RESTORE}"
            )
    trained = {name: found[name] for name, _ in decoder.named_parameters() if name in found}
    if broken := _not_finite(trained):
        raise UserError(f"{path}: '{broken}' is not finite: {RESTORE}")
    return found


def _not_finite(weights: "Mapping[str, Tensor]") -> str:
    """Return the first name whose weights are not all finite, or ''.

    A sum is finite only if all its terms are, and takes one pass over a tensor. If a sum is not
    finite, it may have overflowed, so the weights themselves are checked.
    """
    for name, tensor in weights.items():
        values = tensor.detach()
        if not values.sum().isfinite() and not values.isfinite().all():
            return name
    return ""
