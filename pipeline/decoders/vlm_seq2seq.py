"""Any encoder-decoder vision-language model that transformers loads as AutoModelForImageTextToText:
Florence-2 (Xiao et al., 2024, "Florence-2: Advancing a Unified Representation for a Variety of
Vision Tasks") and BLIP-2 with T5 (Li et al., 2023, "BLIP-2: Bootstrapping Language-Image
Pre-training with Frozen Image Encoders and Large Language Models").

m = encoder([.. tokens of the picture .., tokens of the prompt])
h_t = decoder(m, o, w_1 .. w_t-1),  p(w_t) = softmax(head(h_t))

Picture and prompt pass through the encoder once per image. The state holds their keys and values
for every layer of the decoder, so that m itself is not kept, and the keys and values of the words.
o are the tokens with which the model begins any caption; <start> stands for the last of them.
Low-rank adaptation is that of the decoder `vlm`.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.ranges import Lora
from pipeline.decoders.shared import vision_decoder
from pipeline.decoders.shared import vision_language as vl
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.hub_source import Source
from pipeline.decoders.shared.tokenizers import Tokenizer

# config.json of the models whose cost can be computed without a network, and their `opening`. Keys
# that are left out have their usual values.
KNOWN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "florence-community/Florence-2-base": (
        {
            "model_type": "florence2",
            "text_config": {
                "model_type": "bart",
                "vocab_size": 51328,
                "d_model": 768,
                "encoder_layers": 6,
                "decoder_layers": 6,
                "encoder_ffn_dim": 3072,
                "decoder_ffn_dim": 3072,
                "encoder_attention_heads": 12,
                "decoder_attention_heads": 12,
            },
            "vision_config": {"projection_dim": 768},
        },
        [2, 0],
    ),
}


class Decoder(vision_decoder.Decoder):
    """Reads the features of the encoder `pixels`, which the model's own processor scales.

    The vision part is always frozen and in evaluation mode.

    Args:
        model: a name on the hub, or a folder written by `save_pretrained` of model and processor.
        revision: a branch, tag or commit of the model on the hub; empty for the newest.
        prompt: what the model is asked. Florence-2 also knows the tasks <CAPTION>,
            <DETAILED_CAPTION> and <MORE_DETAILED_CAPTION>.
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

    opening: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        model: str,
        revision: str = "",
        prompt: str = "What does the image describe?",
        dtype: Literal["float32", "bfloat16"] = "float32",
        quantise: Literal["nothing", "4bit"] = "nothing",
        tune: Literal["nothing", "adapter", "all"] = "nothing",
        lora: Lora | None = None,
        weights: Literal["pretrained", "random"] = "pretrained",
        checkpointing: bool = False,
    ):
        super().__init__(
            sizes,
            Source("vlm_seq2seq", model, revision, weights == "random"),
            prompt=prompt,
            dtype=dtype,
            quantise=quantise,
            tune=tune,
            lora=lora,
            checkpointing=checkpointing,
        )
        opening = torch.tensor([sizes.known["opening"]])
        self.register_buffer("opening", opening, persistent=False)

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return a tokenizer, and `Sizes.known` with the model's config.json and its `opening`.

        The tokenizer is the model's own, if it has one. Without one, <start> is the opening.

        Raises:
            UserError: there is no such model, or it is not an encoder-decoder vision-language
                model.
        """
        source = Source.of("vlm_seq2seq", args)
        tokenizer, known = vl.read(source, texts, min_count, encodes=True)
        own = [tokenizer.special.start] if source.has_own_words else _opening(source, known)
        return tokenizer, {**known, "opening": own}

    def adapted(self) -> nn.Module:
        # Without the last layer over the vocabulary, whose weight is also the embedding.
        return nn.ModuleList([self.body.get_encoder(), _words_part(self.body)])

    def beginning(self, pictures: int) -> dict[str, Any]:
        return {"decoder_input_ids": self.opening.expand(pictures, -1)}

    def read_prompt(self, inputs: dict[str, Any]) -> State:
        """Run pictures, prompt and opening -> the state before the first word.

        It holds the keys and values of the opening, and those of what the encoder has read.
        """
        from pipeline.decoders.shared.key_values import empty_pair, unpack_pair

        seen, pair = dict[str, Any](), empty_pair()
        after = _words_part(self.body).register_forward_hook(
            lambda _m, _a, out: seen.update(hidden=out[0])
        )
        try:
            self.body(**inputs, past_key_values=pair, use_cache=True)
        finally:
            after.remove()
        return {"first": seen["hidden"][:, -1], **unpack_pair(pair)}

    def read_words(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        from pipeline.decoders.shared.key_values import pack_pair, unpack

        part, pair = _words_part(self.body), pack_pair(s)
        self._check_length(pair.get_seq_length() + tokens.shape[1])
        rows = part.get_input_embeddings().num_embeddings
        keys = s["seen_key0"]
        # Only the shape of what the encoder has read is used: its keys and values are in the state.
        shape = (len(tokens), keys.shape[2], self.body.config.get_text_config().hidden_size)
        out = part(
            input_ids=tokens.clamp(max=rows - 1),
            encoder_hidden_states=keys.new_zeros(()).expand(shape),
            past_key_values=pair,
            use_cache=True,
        )
        return out.last_hidden_state, unpack(pair.self_attention_cache)

    def _check_length(self, tokens: int) -> None:
        longest = getattr(self.body.config.get_text_config(), "max_position_embeddings", tokens)
        if tokens > longest:
            raise UserError(
                f"vlm_seq2seq: '{self.source.model}' reads {longest} tokens: lower max_words of "
                "the corpus or decode.max_tokens"
            )


def outline(*, model: str, **_: Any) -> tuple[int, dict[str, Any]] | None:
    """Return the number of vocabulary entries and `Sizes.known` of a well-known model, without its
    files.

    For any other model, return None.
    """
    if model not in KNOWN:
        return None
    from transformers import AutoConfig

    content, opening = KNOWN[model]
    config = vl.as_known(AutoConfig.for_model(**content))
    words = config["text_config"]["vocab_size"]
    return words, {"config": config, "start": words - 1, "opening": opening}


def _words_part(body: Any) -> Any:
    """Return the layers that read words, without the last one over the vocabulary."""
    return body.get_decoder().get_decoder()


def _opening(source: Source, known: dict[str, Any]) -> list[int]:
    """Return the tokens with which the model's own `generate` begins any caption.

    Raises:
        UserError: the model's files do not name the first of them.
    """
    from transformers import AutoConfig, GenerationConfig

    config: Any = AutoConfig.for_model(**known["config"])
    told: Any = GenerationConfig.from_model_config(config)
    if source.has("generation_config.json"):
        told = source.read(GenerationConfig.from_pretrained)
    first = told.decoder_start_token_id
    if first is None:  # BLIP-2 leaves it to its language model
        first = getattr(config.get_text_config(), "decoder_start_token_id", None)
    if first is None:
        raise UserError(
            f"vlm_seq2seq: '{source.model}' does not say how a caption begins: set "
            "decoder_start_token_id in its generation_config.json"
        )
    forced = told.forced_bos_token_id
    return [first] if forced is None else [first, forced]
