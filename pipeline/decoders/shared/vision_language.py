"""Vision-language models of transformers (AutoModelForImageTextToText): their files, what they read
of a picture and a prompt, and their language model step by step.

B pictures, T tokens, E width of the language model, S side of the pictures as they come in.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import UserError, brief
from pipeline.core.hub import unusable
from pipeline.decoders.shared.hub_files import plain
from pipeline.decoders.shared.tokenizers import (
    Tokenizer,
    language_model_tokenizer,
    word_tokenizer,
)

MARK = "captionlabreply"
"a reply that no chat template holds"


class Source(NamedTuple):
    """Where a model comes from."""

    model: str
    "a name on the hub, or a folder"
    revision: str
    "of the hub; empty: the newest"
    is_random: bool
    "its files need no weights and no tokenizer"

    def read(self, load: Any) -> Any:
        """What `load` makes of the files (a `from_pretrained`).

        Raises:
            UserError: they are not there, not readable, or not to be had without a token.
        """
        at = {"revision": self.revision} if self.revision else {}
        try:
            return load(str(Path(self.model).expanduser()), **at)
        except Exception as error:  # transformers, tokenizers, the hub and the network: many kinds
            what = f"vlm: '{self.model}'" + (f" at '{self.revision}'" if self.revision else "")
            raise unusable(what, self.model, error) from None

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, in the folder or on the hub."""
        from transformers.utils.hub import cached_file

        lenient = ("missing_entries", "connection_errors", "gated_repo")
        quiet = {f"_raise_exceptions_for_{what}": False for what in lenient}
        found = self.read(lambda where, **at: cached_file(where, name, **at, **quiet))
        return found is not None


def read(source: Source, texts: Iterable[str], min_count: int) -> tuple[Tokenizer, dict[str, Any]]:
    """The model's tokenizer, which ends a caption as the model ends its turn, and `Sizes.known`.

    Raises:
        UserError: there is no such model, or it is no decoder-only vision-language model.
    """
    from transformers import AutoConfig

    config = source.read(AutoConfig.from_pretrained)
    _check_kind(config, source)
    if source.is_random and not source.has("tokenizer.json"):
        tokenizer = word_tokenizer(texts, min_count)
        known = _fitted(config, len(tokenizer))
    else:
        whole = source.read(_load_processor)
        inner = whole.tokenizer.backend_tokenizer
        tokenizer, known = language_model_tokenizer(inner, _end(whole, config)), as_known(config)
    return tokenizer, {"config": known, "start": tokenizer.special.start}


def _check_kind(config: Any, source: Source) -> None:
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    text = config.get_text_config()
    known = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and hasattr(config, "text_config")
    if not known or config.is_encoder_decoder or text.is_encoder_decoder:
        raise UserError(
            f"vlm: '{source.model}' ({config.model_type}) is no decoder-only vision-language model:"
            " name one like SmolVLM, Qwen2.5-VL or LLaVA"
        )
    kinds = {type(layer) for layer in DynamicCache(config=text).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise UserError(
            f"vlm: '{source.model}' ({config.model_type}) keeps no keys and values of what it has "
            "read: name one like SmolVLM, Qwen2.5-VL or LLaVA"
        )


def as_known(config: Any) -> dict[str, Any]:
    """A configuration that builds the model anew where its files are not."""
    return plain(json.loads(config.to_json_string(use_diff=False)))


def _fitted(config: Any, words: int) -> dict[str, Any]:
    """The configuration for a vocabulary of `words` words, after which the tokens come that stand
    for pictures."""
    known = as_known(config)
    special = [name for name in known if name.endswith(("_token_id", "_token_index"))]
    special = [name for name in special if not name.lstrip("_").startswith(("pad", "bos", "eos"))]
    kinds = list(dict.fromkeys(name.rpartition("_token_")[0] for name in special))
    known |= {name: words + kinds.index(name.rpartition("_token_")[0]) for name in special}
    known["text_config"]["vocab_size"] = words + len(kinds)
    known["text_config"] |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return known


def _load_processor(where: str, **at: Any) -> Any:
    from transformers import AutoProcessor

    found = AutoProcessor.from_pretrained(where, **at)
    if not hasattr(found, "image_processor") or not hasattr(found.tokenizer, "backend_tokenizer"):
        raise ValueError("it has no processor of pictures, or no fast tokenizer")
    return found


def _end(processor: Any, config: Any) -> str:
    """The token with which the model ends its turn: in its chat template after a reply, else its
    end of text."""
    if processor.chat_template:
        turns = [*_turn("?"), {"role": "assistant", "content": [{"type": "text", "text": MARK}]}]
        after = processor.apply_chat_template(turns).rpartition(MARK)[2]
        special = set(processor.tokenizer.all_special_tokens)
        special |= set(processor.tokenizer.get_added_vocab())
        found = [token for token in special if after.lstrip().startswith(token)]
        if found:
            return max(found, key=len)
    token = processor.tokenizer.eos_token
    if token is None:
        raise UserError(
            f"vlm: the tokenizer of this {config.model_type} has no end-of-text token: set "
            "eos_token in its tokenizer_config.json"
        )
    return str(token)


def build(known: dict[str, Any], dtype: str, initialise: bool) -> Any:
    """The model of a configuration. Without `initialise` its weights, which others replace, are
    zeros."""
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    config = AutoConfig.for_model(**known)
    with nullcontext() if initialise else no_init_weights():
        body: Any = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    body.tie_weights()
    if not initialise:
        with torch.no_grad():
            for weight in body.parameters():
                weight.zero_()
    return body


def weights(source: Source, body: Any) -> dict[str, Tensor]:
    """The published weights, in the dtype of `body`.

    Raises:
        UserError: they are not there, or lack a part of the model.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    auto: Any = transformers.AutoModelForImageTextToText
    theirs, info = source.read(
        lambda where, **at: auto.from_pretrained(
            where, dtype=body.dtype, output_loading_info=True, **at
        )
    )
    if wrong := sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"]))):
        raise UserError(
            f"vlm: the weights of '{source.model}' lack {len(wrong)} parts of the model (first: "
            f"{wrong[0]})"
        )
    found: dict[str, Tensor] = theirs.state_dict()
    return found


def fingerprint(body: Any) -> Tensor:
    """32 bytes (uint8) that tell weights from others: the SHA-256 of every weight's name, shape and
    first values, adapters left out."""
    total = hashlib.sha256()
    for name, weight in body.state_dict().items():
        if ".lora_" not in name:
            plain_name = name.replace(".base_layer.", ".")
            total.update(f"{plain_name} {tuple(weight.shape)}".encode())
            total.update(weight.flatten()[:64].float().cpu().numpy().tobytes())
    return torch.tensor(list(total.digest()), dtype=torch.uint8)


class WordsProcessor:
    """Reads pictures and prompts for a model of random weights whose vocabulary is the captions'
    words."""

    chat_template = None

    def __init__(self, images: Any, body: Any, words: int):
        self.image_processor, self.body, self.words = images, body, words

    def __call__(self, text: list[str], images: list[list[Tensor]], **_: Any) -> dict[str, Any]:
        """The tokens of the picture, then one token for every word of the prompt, any that the
        vocabulary has."""
        first = "channels_first"  # a picture of 3 x 3 pixels could be read either way
        read = self.image_processor(images=images, return_tensors="pt", input_data_format=first)
        pixels = {name: value for name, value in read.items() if isinstance(value, Tensor)}
        count = _picture_tokens(self.body, pixels, len(images))
        word = [4 + n % max(1, self.words - 4) for n, _ in enumerate(text[0].split())]
        ids = torch.tensor([[image_token(self.body.config)] * count + (word or [4])])
        return {**pixels, "input_ids": ids.expand(len(images), -1)}


@torch.no_grad()
def _picture_tokens(body: Any, pixels: dict[str, Tensor], pictures: int) -> int:
    """Of one picture, as many as the model makes vectors of it."""
    takes = inspect.signature(body.get_image_features).parameters
    device = body.device
    out = body.get_image_features(
        **{name: value.to(device) for name, value in pixels.items() if name in takes}
    )
    found = getattr(out, "pooler_output", out)
    parts = list(found) if isinstance(found, (list, tuple)) else [found]
    return sum(part.numel() // part.shape[-1] for part in parts) // pictures


def processor(source: Source, body: Any, words: int) -> Any:
    """What makes tensors of pictures and a prompt: the model's own processor, or for random weights
    without a tokenizer its processor of pictures alone."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    if not source.is_random or source.has("tokenizer.json"):
        return source.read(_load_processor)
    if source.has("preprocessor_config.json"):
        return WordsProcessor(source.read(AutoImageProcessor.from_pretrained), body, words)
    kinds: Any = IMAGE_PROCESSOR_MAPPING[type(body.config)]
    return WordsProcessor(kinds.get("torchvision", kinds["pil"])(), body, words)


def image_token(config: Any) -> int:
    """The id that stands for a part of the picture."""
    found = getattr(config, "image_token_id", None)
    return int(config.image_token_index if found is None else found)


def pictures(grid: Tensor) -> Tensor:
    """The features of the encoder `pixels` (B, S * S, 3) as pictures (B, 3, S, S) uint8."""
    side = round(grid.shape[1] ** 0.5)
    square = grid.transpose(1, 2).unflatten(2, (side, side))
    return square.round().clamp(0, 255).to(torch.uint8)


def _turn(prompt: str) -> list[dict[str, Any]]:
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return [{"role": "user", "content": content}]


def asked(processor: Any, prompt: str) -> str:
    """The prompt as the model's chat template writes it, or as it is."""
    if not processor.chat_template:
        return prompt
    return str(processor.apply_chat_template(_turn(prompt), add_generation_prompt=True))


def inputs(
    processor: Any, body: Any, source: Source, prompt: str, pictures: Tensor
) -> dict[str, Tensor]:
    """What the model reads of pictures (B, 3, S, S) and the prompt: `input_ids` (B, T), pixels in
    its own layout, and more.

    Raises:
        UserError: the processor refuses the picture, or the prompt has no place for it.
    """
    text = asked(processor, prompt)
    try:
        read = processor(
            text=[text] * len(pictures),
            images=[[picture] for picture in pictures.cpu()],
            return_tensors="pt",
        )
    except Exception as error:  # processors have no error of their own
        side = pictures.shape[-1]
        raise UserError(
            f"vlm: the processor of '{source.model}' refuses a picture of {side} x {side} pixels "
            f"with this prompt ({brief(error)}): change image_size of the encoder pixels, or prompt"
        ) from None
    found = {name: value for name, value in read.items() if isinstance(value, Tensor)}
    ids = found["input_ids"]
    if not (ids == image_token(body.config)).any(1).all():
        raise UserError(
            f"vlm: no token of '{source.model}' stands for the picture in this prompt: give a "
            "model with a chat template, or write its image token into prompt"
        )
    takes = inspect.signature(body.forward).parameters
    found = {name: value for name, value in found.items() if name in takes and name != "labels"}
    found |= {"attention_mask": torch.ones_like(ids), **_types(found, body.config, takes)}
    return {
        name: value.to(body.device, body.dtype if value.is_floating_point() else None)
        for name, value in found.items()
    }


def _types(found: dict[str, Tensor], config: Any, takes: Iterable[str]) -> dict[str, Tensor]:
    """Which tokens are of the picture, under the names that the model wants and its processor did
    not give."""
    ids = found["input_ids"]
    of_picture = (ids == image_token(config)).long()
    if config.model_type == "paligemma":  # 0: seen from everywhere before the caption
        of_picture = torch.zeros_like(of_picture)
    names = [name for name in ("mm_token_type_ids", "token_type_ids") if name in takes]
    return {name: of_picture for name in names if name not in found}


def language_part(body: Any) -> Any:
    """The layers that read words, without the last one over the vocabulary."""
    part = body.get_decoder()
    return part.get_decoder() if part.get_output_embeddings() is not None else part


def read_prompt(body: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Any, Tensor | None]:
    """The hidden vector after the prompt (B, E), the cache of what was read, and how far the
    positions of the words that follow lie from their number (B, n), None: not at all.

    n is 1, or the number of axes that a position has (Qwen2.5-VL: time, height and width).
    """
    from transformers.cache_utils import Cache, DynamicLayer

    part = language_part(body)
    seen: dict[str, Any] = {}
    before = part.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.update(positions=kwargs.get("position_ids")), with_kwargs=True
    )
    after = part.register_forward_hook(lambda _m, _a, out: seen.update(hidden=out[0]))
    count = body.config.get_text_config().num_hidden_layers
    cache = Cache(layers=[DynamicLayer() for _ in range(count)])
    try:
        body(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    finally:
        before.remove(), after.remove()
    hidden, positions = seen["hidden"], seen["positions"]
    if positions is None:
        return hidden[:, -1], cache, None
    last = positions[..., -1].reshape(-1, positions.shape[-2]).T  # (B, n), or (1, n) for all
    shift = last + 1 - hidden.shape[1]
    return hidden[:, -1], cache, shift.expand(len(hidden), -1)


def read_words(body: Any, tokens: Tensor, cache: Any, shift: Tensor | None) -> tuple[Tensor, Any]:
    """Tokens (B, T) after what the cache holds -> hidden (B, T, E) and the longer cache."""
    embedding = body.get_input_embeddings()
    words = embedding(tokens.clamp(max=embedding.num_embeddings - 1))
    at: dict[str, Tensor] = {}
    if shift is not None:
        first = cache.get_seq_length()
        steps = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        positions = (steps + shift[..., None]).movedim(1, 0)  # (n, B, T)
        at["position_ids"] = positions[0] if len(positions) == 1 else positions
    out = language_part(body)(inputs_embeds=words, past_key_values=cache, use_cache=True, **at)
    return out.last_hidden_state, out.past_key_values


def logits(body: Any, hidden: Tensor) -> Tensor:
    """Hidden (..., E) -> (..., V) float32."""
    found: Tensor = body.get_output_embeddings()(hidden).float()
    cap = getattr(body.config.get_text_config(), "final_logit_softcapping", None)
    return found if cap is None else torch.tanh(found / cap) * cap


@torch.no_grad()
def check_logits(decoder: Any) -> None:
    """Some models scale what comes out of their last layer; this decoder does not.

    Raises:
        UserError: the model's own logits after a grey picture are others.
    """
    body, was = decoder.body, decoder.training
    grey = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    inputs = decoder.eval().inputs(grey)
    theirs = body(**inputs, logits_to_keep=1).logits[:, -1].float()
    ours = logits(body, read_prompt(body, inputs)[0])
    decoder.train(was)
    if not torch.allclose(F.softmax(ours, -1), F.softmax(theirs, -1), atol=1e-3):
        raise UserError(
            f"vlm: '{decoder.source.model}' ({body.config.model_type}) changes its logits after "
            "the last layer: not supported"
        )
