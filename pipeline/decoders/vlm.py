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
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.ranges import Lora
from pipeline.decoders.shared import lora as adapters
from pipeline.decoders.shared import vision_language as vl
from pipeline.decoders.shared import vision_prompts as prompts
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.hub_source import Source
from pipeline.decoders.shared.language_model import pack, unpack
from pipeline.decoders.shared.parallel import ParallelDecoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features

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


class Decoder(ParallelDecoder):
    """Reads the features of the encoder `pixels`, which the model's own processor scales.

    The vision part is always frozen and in evaluation mode.

    Args:
        model: a name on the hub, or a folder written by `save_pretrained` of model and processor.
        revision: a branch, tag or commit of the model on the hub; empty for the newest.
        prompt: what the model is asked. Its chat template is applied, if it has one.
        dtype: dtype of the model's weights.
        tune: what training changes. `nothing` is zero-shot, `adapter` trains an adapter of low
            rank, and `all` trains all weights except those of the vision part.
        lora: settings of the adapter. They are rank (8), alpha (16), dropout (0), dora (false;
            weight-decomposed adaptation, Liu et al., 2024) and targets. The targets are
            `all-linear` of the language model, or layer names such as [q_proj, v_proj].
        weights: `random` needs only config.json and preprocessor_config.json. Without tokenizer
            files, the vocabulary is the captions' words.
    """

    reads = "grid"

    base: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        model: str,
        revision: str = "",
        prompt: str = "Describe the picture in one short sentence.",
        dtype: Literal["float32", "bfloat16"] = "float32",
        tune: Literal["nothing", "adapter", "all"] = "nothing",
        lora: Lora | None = None,
        weights: Literal["pretrained", "random"] = "pretrained",
    ):
        super().__init__()
        if sizes.grid != 3:
            raise UserError(
                f"vlm sees pictures, not a grid {sizes.grid} wide: give it features of the encoder "
                "pixels"
            )
        self.source = Source(model, revision, weights == "random")
        self.prompt, self.tune, self.words = prompt, tune, sizes.vocabulary
        self.published = model if weights == "pretrained" else ""
        self.body = vl.build(sizes.known["config"], dtype, initialise=weights == "random")
        self.requires_grad_(tune == "all")
        self.body.get_encoder(modality="image").requires_grad_(False)
        if tune == "adapter":
            self.adapter = adapters.inject(self.body, self.body.get_decoder(), lora or {})
        self.register_buffer("base", torch.zeros(32, dtype=torch.uint8))
        self.processor: Any = None

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return a tokenizer, and `Sizes.known` with the model's config.json.

        The tokenizer is the model's own, if it has one.

        Raises:
            UserError: there is no such model, or it is not a decoder-only vision-language model.
        """
        source = Source(args["model"], args.get("revision", ""), args.get("weights") == "random")
        return vl.read(source, texts, min_count)

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        if self.published:
            self._take_published()
            adapters.renew(self.body)
            self.base.copy_(vl.fingerprint(self.body))
            vl.check_logits(self)

    def load_base(self) -> None:
        """Load the published weights, unless the model folder holds all weights.

        Raises:
            UserError: they are missing, or are not those that this decoder was trained on.
        """
        if not self.published or self.tune == "all":
            return
        self._take_published()
        if not torch.equal(self.base, vl.fingerprint(self.body)):
            raise UserError(
                f"vlm: this model was trained on other weights than '{self.source.model}' holds "
                "now: name its revision, or train it again"
            )

    def _take_published(self) -> None:
        adapters.load_base(self.body, vl.weights(self.source, self.body))

    def saved(self) -> list[str]:
        """Return the names of the weights that a model folder holds.

        If all weights were trained or drawn at random, it holds all of them. Otherwise, it holds
        only the adapter and the fingerprint `base`.
        """
        weights = self.state_dict(keep_vars=True)
        if self.published and self.tune != "all":
            return [name for name in weights if name == "base" or adapters.is_adapter(name)]
        first: dict[int, str] = {}  # a tied weight has two names
        for name, weight in weights.items():
            first.setdefault(id(weight), name)
        return list(first.values())

    def train(self, mode: bool = True) -> "Decoder":
        super().train(mode)
        self.body.get_encoder(modality="image").eval()
        return self

    def start(self, f: Features) -> State:
        inputs = self.inputs(prompts.pictures(f.grid))
        hidden, cache, shift = vl.read_prompt(self.body, inputs)
        s = {"first": hidden, **unpack(cache)}
        return s if shift is None else {**s, "shift": shift}

    def inputs(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return what the model reads for pictures (B, 3, S, S) uint8.

        This is ids (B, T), the pixels in the model's own layout, and more.
        """
        if self.processor is None:
            self.processor = prompts.processor(self.source, self.body, self.words)
        return prompts.inputs(self.processor, self.body, self.source, self.prompt, pictures)

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B, T) after what the state holds -> hidden (B, T, E).

        The very first token is <start>. Its hidden vector is the prompt's last one. Padding is at
        the end, so no mask is needed.
        """
        read, hidden = s, list[Tensor]()
        if "first" in s:
            hidden, tokens = [s["first"][:, None]], tokens[:, 1:]
            read = {name: value for name, value in s.items() if name != "first"}
        if tokens.shape[1]:
            seen, cache = vl.read_words(self.body, tokens, pack(read), read.get("shift"))
            hidden.append(seen)
            read = {**read, **unpack(cache)}
        return torch.cat(hidden, 1), read

    def project(self, hidden: Tensor) -> Tensor:
        """Return logits in float32, without rows of the vocabulary that no token has."""
        return vl.logits(self.body, hidden)[..., : self.words]


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
