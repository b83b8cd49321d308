"""The files of vision-language models of transformers (AutoModelForImageTextToText).

This module reads configurations, tokenizers and weights, and builds models from them.
"""

import json
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.decoders.shared.hub_files import plain
from pipeline.decoders.shared.hub_source import Source
from pipeline.decoders.shared.tokenizers import (
    Tokenizer,
    language_model_tokenizer,
    word_tokenizer,
)
from pipeline.decoders.shared.vision_prompts import load_processor, turn


class Kind(NamedTuple):
    what: str
    like: str
    "Models of this kind."
    decoder: str
    "The decoder file that runs them."


# By whether the model has an encoder for the prompt and a decoder for the caption.
KINDS = {
    False: Kind("a decoder-only vision-language model", "SmolVLM, Qwen2.5-VL or LLaVA", "vlm"),
    True: Kind(
        "an encoder-decoder vision-language model", "Florence-2 or BLIP-2 with T5", "vlm_seq2seq"
    ),
}
# Beginnings of the names of ids that do not stand for a picture.
NOT_PICTURES = ("pad", "bos", "eos", "decoder_start", "forced")
# A reply that occurs in no chat template.
MARK = "captionlabreply"


def read(
    source: Source, texts: Iterable[str], min_count: int, encodes: bool
) -> tuple[Tokenizer, dict[str, Any]]:
    """Return a tokenizer, and `Sizes.known`.

    The tokenizer is the model's own, if it has one; it ends a caption as the model ends its turn.
    Random weights without a tokenizer get one of the captions' words.

    Args:
        encodes: whether the model has an encoder for the prompt and a decoder for the caption.

    Raises:
        UserError: there is no such model, or it is a model of another kind.
    """
    from transformers import AutoConfig

    config = source.read(AutoConfig.from_pretrained)
    _check_kind(config, source, encodes)
    if source.has_own_words:
        tokenizer = word_tokenizer(texts, min_count)
        known = _fitted(config, len(tokenizer))
    else:
        whole = source.read(load_processor)
        inner = whole.tokenizer.backend_tokenizer
        tokenizer, known = language_model_tokenizer(inner, _end(whole, source)), as_known(config)
    return tokenizer, {"config": known, "start": tokenizer.special.start}


def _check_kind(config: Any, source: Source, encodes: bool) -> None:
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    kind, other = KINDS[encodes], KINDS[not encodes]
    named = f"{source.decoder}: '{source.model}' ({config.model_type})"
    text = config.get_text_config()
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or not hasattr(
        config, "text_config"
    ):
        raise UserError(f"{named} is not {kind.what}: name one like {kind.like}")
    if encodes != bool(config.is_encoder_decoder or text.is_encoder_decoder):
        raise UserError(f"{named} is {other.what}: use the decoder {other.decoder}")
    kinds = {type(layer) for layer in DynamicCache(config=text).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise UserError(
            f"{named} keeps no keys and values of what it has read: name one like {kind.like}"
        )


def as_known(config: Any) -> dict[str, Any]:
    """Return a configuration from which the model can be built without its files."""
    return plain(json.loads(config.to_json_string(use_diff=False)))


def _fitted(config: Any, words: int) -> dict[str, Any]:
    """Return the configuration for a vocabulary of `words` words.

    The tokens that stand for pictures come after these words.
    """
    known = as_known(config)
    special = [name for name in known if name.endswith(("_token_id", "_token_index"))]
    special = [name for name in special if not name.lstrip("_").startswith(NOT_PICTURES)]
    kinds = list(dict.fromkeys(name.rpartition("_token_")[0] for name in special))
    known |= {name: words + kinds.index(name.rpartition("_token_")[0]) for name in special}
    known["text_config"]["vocab_size"] = words + len(kinds)
    known["text_config"] |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return known


def _end(processor: Any, source: Source) -> str:
    """Return the token with which the model ends its turn.

    It is the token that follows a reply in the chat template, or else the end-of-text token.
    """
    if processor.chat_template:
        turns = [*turn("?"), {"role": "assistant", "content": [{"type": "text", "text": MARK}]}]
        after = processor.apply_chat_template(turns).rpartition(MARK)[2]
        special = set(processor.tokenizer.all_special_tokens)
        special |= set(processor.tokenizer.get_added_vocab())
        found = [token for token in special if after.lstrip().startswith(token)]
        if found:
            return max(found, key=len)
    token = processor.tokenizer.eos_token
    if token is None:
        raise UserError(
            f"{source.decoder}: the tokenizer of '{source.model}' has no end-of-text token: set "
            "eos_token in its tokenizer_config.json"
        )
    return str(token)


def build(known: dict[str, Any], dtype: str, initialise: bool) -> Any:
    """Return the model of a configuration.

    Without `initialise`, its weights are zeros, because the caller replaces them.
    """
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
    """Return the published weights, in the dtype of `body`.

    Raises:
        UserError: they are missing, or lack a part of the model.
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
            f"{source.decoder}: the weights of '{source.model}' lack {len(wrong)} parts of the "
            f"model (first: {wrong[0]})"
        )
    found: dict[str, Tensor] = theirs.state_dict()
    return found
