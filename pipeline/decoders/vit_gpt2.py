"""ViT-GPT2: a vision transformer and a GPT-2 with cross-attention, trained together from the pixels
on. It uses transformers' layers and weights (Dosovitskiy et al., 2021, "An Image Is Worth 16x16
Words"; Radford et al., 2019, "Language Models are Unsupervised Multitask Learners"; Rothe et al.,
2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks").

v = ViT((pixels / 255 - mean) / std), through one linear layer where the two widths differ
x = embed(w) + position
per layer: x += self(norm(x));  x += cross(norm(x), v);  x += feed(norm(x))
p(w_t+1) = softmax(E norm(x_t)), with E the embedding itself unless the model's config.json unties
them
"""

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.ranges import Lora
from pipeline.decoders.shared import pretrained
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.hub_files import GREY, Files, plain, words_of
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.pretrained import Captions, attend, look
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features

# config.json of the models whose cost can be computed without a network. Keys that are left out
# have their usual values.
KNOWN: dict[str, dict[str, Any]] = {
    "nlpconnect/vit-gpt2-image-captioning": {
        "model_type": "vision-encoder-decoder",
        "encoder": {"model_type": "vit"},
        "decoder": {"model_type": "gpt2", "add_cross_attention": True},
    }
}


class Decoder(pretrained.Decoder):
    """Reads the features of the encoder `pixels`: the grid is the picture.

    Args:
        model: a vision-encoder-decoder of ViT and GPT-2. Give its name on the hub, or a folder with
            config.json, preprocessor_config.json, tokenizer.json and the weights.
        revision: a branch, tag or commit of `model` on the hub; empty for the newest.
        encoder, decoder: instead of `model`, a ViT and a GPT-2 by name or folder. The attention
            between them starts at random.
        weights: `random` needs only config.json. Without a preprocessor_config.json, mean and
            standard deviation are then 0.5. Without tokenizer files, the vocabulary is the
            captions' words.
        lora: train an adapter of low rank in the layers of GPT-2, and nothing else. Its settings
            are those of the decoder `vlm`. With `encoder` and `decoder`, the attention between
            them has no published weights; all its weights are trained then. The default trains
            all weights.
    """

    reads = "grid"
    encoder: Any  # modules of transformers, whose parts a type checker does not know
    projection: Any
    words: Any
    output: Any

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return a tokenizer, and `Sizes.known`.

        The tokenizer is the model's own, if it has one. `Sizes.known` holds its config.json, the
        mean and std of its pictures' colours, and our <start>.
        """
        given = {**(cls.__init__.__kwdefaults__ or {}), **args}
        names = (given[key] for key in ("model", "encoder", "decoder", "revision"))
        eyes, mouth = _sources(*names)
        config, is_random = _config(given["model"], eyes, mouth), given["weights"] == "random"
        tokenizer = mouth.tokenizer(config["eos_token_id"], "eos_token_id", optional=is_random)
        if tokenizer is None:
            tokenizer = words_of(texts, min_count, config["decoder"], "eos_token_id")
            config |= {
                "decoder_start_token_id": tokenizer.special.start,
                "eos_token_id": tokenizer.special.end,
            }
        eyes.check_sizes(config["encoder"]["image_size"])
        rows, start = config["decoder"]["vocab_size"], config["decoder_start_token_id"]
        mouth.check_vocabulary(tokenizer, rows, start, "decoder_start_token_id")
        return tokenizer, {
            "config": config,
            **eyes.colours(optional=is_random),
            "start": tokenizer.special.start,
        }

    def __init__(
        self,
        sizes: Sizes,
        *,
        model: str = "",
        revision: str = "",
        encoder: str = "",
        decoder: str = "",
        weights: Literal["pretrained", "random"] = "pretrained",
        lora: Lora | None = None,
    ):
        config = sizes.known["config"]
        body = Files("vit_gpt2", model or f"{encoder} + {decoder}").read(lambda: _built(config))
        reads, start = config["decoder"], config["decoder_start_token_id"]
        super().__init__(
            sizes,
            body,
            config["encoder"]["image_size"],
            reads["n_head"],
            reads["vocab_size"],
            start,
        )
        self.config, self.sources = config, (model, encoder, decoder, revision)
        self.weights, self.published = weights, model if weights == "pretrained" else ""
        if lora is not None:
            base = (model or f"{encoder} + {decoder}") if weights == "pretrained" else ""
            self.adapt(body, base, lora, *self._reads_words(bool(base and not model)))

    def _reads_words(self, is_pair: bool) -> tuple[list[nn.Module], list[nn.Module]]:
        """Return the modules that get adapters, and those that no published weights exist for."""
        if not is_pair:
            return [self.words], []
        layers = list(self.words.h)
        between = [m for layer in layers for m in (layer.ln_cross_attn, layer.crossattention)]
        own = [m for layer in layers for m in (layer.attn, layer.mlp)]
        return own, [*between, self.projection]

    @staticmethod
    def adopt(module: nn.Module, body: Any) -> None:
        """Adopt the parts of `body` without the ViT's pooler, which nothing reads."""
        body.encoder.pooler = None
        says = body.decoder
        tied = says.lm_head.weight is says.transformer.wte.weight
        module.encoder, module.words = body.encoder, says.transformer
        module.projection = getattr(body, "enc_to_dec_proj", nn.Identity())
        module.add_module("output", None if tied else says.lm_head)

    def fetch(self) -> Any:
        return _fetched(self.config, *self.sources) if self.weights == "pretrained" else None

    def start(self, f: Features) -> State:
        image = self.projection(
            self.encoder(pixel_values=self.pixels(f.grid)).last_hidden_state
        )  # (B, S, W)
        state: State = {}
        for n, layer in enumerate(self.words.h):
            keys, values = self.by_head(layer.crossattention.c_attn(image), 2)
            state |= {f"image_keys{n}": keys, f"image_values{n}": values}
            state |= {f"words_keys{n}": keys[:, :, :0], f"words_values{n}": values[:, :, :0]}
        return state

    def last_layer(self, hidden: Tensor) -> LastLayer:
        return LastLayer(
            hidden, self.words.wte.weight if self.output is None else self.output.weight
        )

    def run(
        self, ids: Tensor, s: State, captions: Captions | None, looks: list[Tensor] | None = None
    ) -> tuple[Tensor, State]:
        position = self.places(ids, s, len(self.words.wpe.weight))
        x = self.words.drop(self.words.wte(ids) + self.words.wpe(position))
        grown: State = {}
        for n, layer in enumerate(self.words.h):
            at, to = layer.attn, layer.crossattention
            query, keys, values = self.by_head(at.c_attn(layer.ln_1(x)), 3)
            grown |= self.read_on(s, n, keys, values)
            seen = attend(
                query,
                grown[f"words_keys{n}"],
                grown[f"words_values{n}"],
                at.attn_dropout,
                True,
                at.scaling,
            )
            x = x + at.resid_dropout(at.c_proj(seen))
            (query,) = self.by_head(to.q_attn(layer.ln_cross_attn(x)))
            x = x + to.resid_dropout(
                to.c_proj(look(query, s, n, captions, to.attn_dropout, to.scaling, looks))
            )
            x = x + layer.mlp(layer.ln_2(x))
        return self.words.ln_f(x), s | grown


def outline(*, model: str = "", **_: Any) -> tuple[int, dict[str, Any]] | None:
    """Return the number of vocabulary entries and `Sizes.known` of a well-known model, without its
    files.

    For any other model, return None.
    """
    from transformers import VisionEncoderDecoderConfig

    if model not in KNOWN:
        return None
    whole: Any = VisionEncoderDecoderConfig.from_dict(KNOWN[model])
    start = whole.decoder.bos_token_id
    config = {**plain(whole.to_diff_dict()), "decoder_start_token_id": start}
    return whole.decoder.vocab_size, {"config": config, **GREY, "start": start}


def _sources(model: str, encoder: str, decoder: str, revision: str) -> tuple[Files, Files]:
    """Return the files that give the pictures' size and colours, and those that give the
    tokenizer."""
    if [bool(model), bool(encoder), bool(decoder)] not in (
        [True, False, False],
        [False, True, True],
    ):
        raise UserError("args of a vit_gpt2: give `model`, or both `encoder` and `decoder`")
    if revision and not model:
        raise UserError(
            "args.revision: it belongs to `model`, and `encoder` and `decoder` have none: leave it "
            "out"
        )
    eyes, mouth = (Files("vit_gpt2", part or model, revision) for part in (encoder, decoder))
    return eyes, mouth


def _config(model: str, eyes: Files, mouth: Files) -> dict[str, Any]:
    """Return the config.json of the whole model, with every value that the network depends on."""
    from transformers import VisionEncoderDecoderConfig

    if model:
        content = mouth.json("config.json")
        mouth.check_type(content, "vision-encoder-decoder")
        starts = [
            c.get("decoder_start_token_id")
            for c in (content, mouth.json("generation_config.json", {}))
        ]
    else:
        content, starts = (
            {"encoder": eyes.json("config.json"), "decoder": mouth.json("config.json")},
            [],
        )
    eyes.check_type(content.get("encoder"), "vit", "deit")
    mouth.check_type(content.get("decoder"), "gpt2")
    content["decoder"] |= {"is_decoder": True, "add_cross_attention": True}
    both = Files("vit_gpt2", model or f"{eyes.model} + {mouth.model}")
    whole = both.read(lambda: VisionEncoderDecoderConfig.from_dict(content))
    start, end = (
        _first(*starts, whole.decoder.bos_token_id),
        _first(content.get("eos_token_id"), whole.decoder.eos_token_id),
    )
    return {**plain(whole.to_diff_dict()), "decoder_start_token_id": start, "eos_token_id": end}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _built(config: dict[str, Any]) -> Any:
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    return VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_dict(config))


def _fetched(config: dict[str, Any], model: str, encoder: str, decoder: str, revision: str) -> Any:
    from transformers import (
        AutoModel,
        GPT2LMHeadModel,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
    )

    whole = VisionEncoderDecoderConfig.from_dict(config)
    if model:
        files = Files("vit_gpt2", model, revision)
        return files.weights(VisionEncoderDecoderModel, whole, "encoder.pooler.")
    sees = Files("vit_gpt2", encoder).weights(AutoModel, whole.encoder, "pooler.")
    says = Files("vit_gpt2", decoder).weights(GPT2LMHeadModel, whole.decoder, "cross")
    return VisionEncoderDecoderModel(encoder=sees, decoder=says)
