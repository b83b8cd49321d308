"""Vision-language models of transformers (AutoModelForImageTextToText).

This module reads their files and runs their language model step by step. B pictures, T tokens, E
width of the language model.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.decoders.shared.hub_files import plain
from pipeline.decoders.shared.hub_source import Source
from pipeline.decoders.shared.tokenizers import (
    Tokenizer,
    language_model_tokenizer,
    word_tokenizer,
)
from pipeline.decoders.shared.vision_prompts import load_processor, turn

# A reply that occurs in no chat template.
MARK = "captionlabreply"


def read(source: Source, texts: Iterable[str], min_count: int) -> tuple[Tokenizer, dict[str, Any]]:
    """Return a tokenizer, and `Sizes.known`.

    The tokenizer is the model's own, if it has one; it ends a caption as the model ends its turn.
    Random weights without a tokenizer get one of the captions' words.

    Raises:
        UserError: there is no such model, or it is not a decoder-only vision-language model.
    """
    from transformers import AutoConfig

    config = source.read(AutoConfig.from_pretrained)
    _check_kind(config, source)
    if source.is_random and not source.has("tokenizer.json"):
        tokenizer = word_tokenizer(texts, min_count)
        known = _fitted(config, len(tokenizer))
    else:
        whole = source.read(load_processor)
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
            f"vlm: '{source.model}' ({config.model_type}) is not a decoder-only "
            "vision-language model:"
            " name one like SmolVLM, Qwen2.5-VL or LLaVA"
        )
    kinds = {type(layer) for layer in DynamicCache(config=text).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise UserError(
            f"vlm: '{source.model}' ({config.model_type}) keeps no keys and values of what it has "
            "read: name one like SmolVLM, Qwen2.5-VL or LLaVA"
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
    special = [name for name in special if not name.lstrip("_").startswith(("pad", "bos", "eos"))]
    kinds = list(dict.fromkeys(name.rpartition("_token_")[0] for name in special))
    known |= {name: words + kinds.index(name.rpartition("_token_")[0]) for name in special}
    known["text_config"]["vocab_size"] = words + len(kinds)
    known["text_config"] |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return known


def _end(processor: Any, config: Any) -> str:
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
            f"vlm: the tokenizer of this {config.model_type} has no end-of-text token: set "
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
            f"vlm: the weights of '{source.model}' lack {len(wrong)} parts of the model (first: "
            f"{wrong[0]})"
        )
    found: dict[str, Tensor] = theirs.state_dict()
    return found


def fingerprint(body: Any) -> Tensor:
    """Return 32 bytes (uint8) that distinguish weights from others.

    They are the SHA-256 of every weight's name, shape and first values. Adapters are left out.
    """
    total = hashlib.sha256()
    for name, weight in body.state_dict().items():
        if ".lora_" not in name:
            plain_name = name.replace(".base_layer.", ".")
            total.update(f"{plain_name} {tuple(weight.shape)}".encode())
            total.update(weight.flatten()[:64].float().cpu().numpy().tobytes())
    return torch.tensor(list(total.digest()), dtype=torch.uint8)


def language_part(body: Any) -> Any:
    """Return the layers that read words, without the last one over the vocabulary."""
    part = body.get_decoder()
    return part.get_decoder() if part.get_output_embeddings() is not None else part


def read_prompt(body: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Any, Tensor | None]:
    """Run the pictures and the prompt through the model.

    Returns:
        the hidden vector after the prompt (B, E), the cache of what was read, and a shift (B, n).
            The shift is the difference between a following word's position and its number. It is
            None if the model needs none. n is 1, or the number of axes of a position (Qwen2.5-VL:
            time, height and width).
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
    """Read tokens (B, T) after what the cache holds -> hidden (B, T, E) and the longer cache."""
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
    """Check that the model does not change its logits after the last layer.

    Some models scale them; this decoder does not.

    Raises:
        UserError: the model's own logits after a grey picture differ from this decoder's.
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
