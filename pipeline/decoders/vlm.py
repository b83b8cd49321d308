"""Any decoder-only vision-language model that transformers loads as AutoModelForImageTextToText:
SmolVLM, Qwen2.5-VL and Qwen3-VL, LLaVA, InternVL, PaliGemma, Gemma 3, Idefics, BLIP-2 with OPT.

x = [.. tokens of the picture .., tokens of the prompt],  h_t = LM(x, w_1 .. w_t-1),
p(w_t) = softmax(head(h_t))

The picture and the prompt are run once per image. The state holds their keys and values, and the
hidden vector after the last token of the prompt; <start> stands for that token. Low-rank adaptation
computes W x + (alpha / rank) B A x with frozen W (Hu et al., 2022, "LoRA: Low-Rank Adaptation of
Large Language Models"). L layers, N key heads, d their width, S tokens that have been read.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.ranges import Lora
from pipeline.decoders.shared import vision_decoder
from pipeline.decoders.shared import vision_language as vl
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.hub_source import Source
from pipeline.decoders.shared.tokenizers import Tokenizer

# config.json of the models whose cost can be computed without a network. Keys that are left out
# have their usual values.
KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_attention_heads": 16,
            "num_hidden_layers": 36,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
    },
}


class Decoder(vision_decoder.Decoder):
    """Reads the features of the encoder `pixels`, which the model's own processor scales.

    The vision part is always frozen and in evaluation mode.

    Args:
        model: a name on the hub, or a folder written by `save_pretrained` of model and processor.
        revision: a branch, tag or commit of the model on the hub; empty for the newest.
        prompt: what the model is asked. Its chat template is applied, if it has one.
        dtype: dtype of the model's weights.
        quantise: `4bit` keeps the weights of the language model's linear layers in 4 bits each
            (NF4; Dettmers et al., 2023, "QLoRA"), which takes a package, bitsandbytes. All other
            weights have `dtype`. Weights of 4 bits are not trained: `tune` is `adapter` or
            `nothing`.
        tune: what training changes. `nothing` is zero-shot, `adapter` trains an adapter of low
            rank, and `all` trains all weights except those of the vision part.
        lora: settings of the adapter. They are rank (8), alpha (16), dropout (0), dora (false;
            weight-decomposed adaptation, Liu et al., 2024) and targets. The targets are
            `all-linear` of the language model, or layer names such as [q_proj, v_proj].
        weights: `random` needs only config.json and preprocessor_config.json. Without tokenizer
            files, the vocabulary is the captions' words.
        checkpointing: whether the layers compute their activations again in the backward pass,
            which takes less memory and more time. Results do not change.
    """

    reads = "grid"

    def __init__(
        self,
        sizes: Sizes,
        *,
        model: str,
        revision: str = "",
        prompt: str = "Describe the picture in one short sentence.",
        dtype: Literal["float32", "bfloat16"] = "float32",
        quantise: Literal["nothing", "4bit"] = "nothing",
        tune: Literal["nothing", "adapter", "all"] = "nothing",
        lora: Lora | None = None,
        weights: Literal["pretrained", "random"] = "pretrained",
        checkpointing: bool = False,
    ):
        super().__init__(
            sizes,
            Source("vlm", model, revision, weights == "random"),
            prompt=prompt,
            dtype=dtype,
            quantise=quantise,
            tune=tune,
            lora=lora,
            checkpointing=checkpointing,
        )

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return a tokenizer, and `Sizes.known` with the model's config.json.

        The tokenizer is the model's own, if it has one.

        Raises:
            UserError: there is no such model, or it is not a decoder-only vision-language model.
        """
        return vl.read(Source.of("vlm", args), texts, min_count, encodes=False)

    def adapted(self) -> nn.Module:
        part: nn.Module = self.body.get_decoder()
        return part

    def beginning(self, pictures: int) -> dict[str, Any]:
        return {"logits_to_keep": 1}

    def read_prompt(self, inputs: dict[str, Any]) -> State:
        """Run pictures and prompt -> the state before the first word.

        It holds the keys and values of what was read, and `shift` (B, n), the difference between a
        following word's position and its number. There is none if the model needs none. n is 1, or
        the number of axes of a position (Qwen2.5-VL: time, height and width).
        """
        from pipeline.decoders.shared.key_values import empty, unpack

        part, seen = _language_part(self.body), dict[str, Any]()
        before = part.register_forward_pre_hook(
            lambda _m, _a, kwargs: seen.update(positions=kwargs.get("position_ids")),
            with_kwargs=True,
        )
        after = part.register_forward_hook(lambda _m, _a, out: seen.update(hidden=out[0]))
        cache = empty(self.body.config.get_text_config().num_hidden_layers)
        try:
            self.body(**inputs, past_key_values=cache, use_cache=True)
        finally:
            before.remove(), after.remove()
        hidden, positions = seen["hidden"], seen["positions"]
        state = {"first": hidden[:, -1], **unpack(cache)}
        if positions is None:
            return state
        last = positions[..., -1].reshape(-1, positions.shape[-2]).T  # (B, n), or (1, n) for all
        return {**state, "shift": (last + 1 - hidden.shape[1]).expand(len(hidden), -1)}

    def read_words(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        from pipeline.decoders.shared.key_values import pack, unpack

        embedding, cache = self.body.get_input_embeddings(), pack(s)
        words = embedding(tokens.clamp(max=embedding.num_embeddings - 1))
        at: dict[str, Tensor] = {}
        if "shift" in s:
            first = cache.get_seq_length()
            steps = torch.arange(first, first + tokens.shape[1], device=tokens.device)
            positions = (steps + s["shift"][..., None]).movedim(1, 0)  # (n, B, T)
            at["position_ids"] = positions[0] if len(positions) == 1 else positions
        part = _language_part(self.body)
        out = part(inputs_embeds=words, past_key_values=cache, use_cache=True, **at)
        return out.last_hidden_state, unpack(cache)


def _language_part(body: Any) -> Any:
    """Return the layers that read words, without the last one over the vocabulary."""
    part = body.get_decoder()
    return part.get_decoder() if part.get_output_embeddings() is not None else part


def outline(*, model: str, **_: Any) -> tuple[int, dict[str, Any]] | None:
    """Return the number of vocabulary entries and `Sizes.known` of a well-known model, without its
    files.

    For any other model, return None.
    """
    if model not in KNOWN:
        return None
    from transformers import AutoConfig

    config = vl.as_known(AutoConfig.for_model(**KNOWN[model]))
    words = config["text_config"]["vocab_size"]
    return words, {"config": config, "start": words - 1}
