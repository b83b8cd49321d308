"""BLIP: a vision transformer, and a BERT that reads words from left to right and looks at the
picture in every layer. It uses transformers' layers and weights (Li et al., 2022, "BLIP:
Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and Generation",
image-grounded text decoder).

v = ViT((pixels / 255 - mean) / std)
x = norm(embed(w) + position)
per layer: x = norm(x + self(x));  x = norm(x + cross(x, v));  x = norm(x + feed(x))
p(w_t+1) = softmax(E norm(gelu(A x_t)) + b), with E the embedding itself unless the model's
config.json unties them
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.ranges import Lora
from pipeline.decoders.shared import pretrained
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.hub_files import GREY, Files, plain, read_model
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.pretrained import Captions, attend, look
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features

# config.json of the models whose cost can be computed without a network. Keys that are left out
# have their usual values.
KNOWN: dict[str, dict[str, Any]] = {
    "Salesforce/blip-image-captioning-base": {
        "text_config": {"num_attention_heads": 12},
        "vision_config": {},
    },
    "Salesforce/blip-image-captioning-large": {
        "text_config": {"num_attention_heads": 12},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    },
}


class Decoder(pretrained.Decoder):
    """Reads the features of the encoder `pixels`: the grid is the picture.

    Args:
        model: a BLIP for captions. Give its name on the hub, or a folder with config.json,
            preprocessor_config.json, tokenizer.json and the weights.
        revision: a branch, tag or commit of the model on the hub; empty for the newest.
        prompt: words that stand before every caption and are not part of it. The published models
            were trained with "a picture of".
        weights: `random` needs only config.json. Without a preprocessor_config.json, mean and
            standard deviation are then 0.5. Without tokenizer files, the vocabulary is the
            captions' words.
        lora: train an adapter of low rank in the layers that read words, and nothing else. Its
            settings are those of the decoder `vlm`. The default trains all weights.
    """

    reads = "grid"
    encoder: Any  # modules of transformers, whose parts a type checker does not know
    words: Any
    layers: Any
    transform: Any
    output: Any
    bias: Tensor
    opening: Tensor

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return a tokenizer, and `Sizes.known`.

        The tokenizer is the model's own, if it has one. `Sizes.known` holds its config.json, its
        pictures' colours, our <start>, and the prompt's ids.
        """
        files = Files("blip", args["model"], args.get("revision", ""))
        is_random = args.get("weights") == "random"
        content = files.json("config.json")
        files.check_type(content, "blip")
        config = _config(files, content)
        tokenizer, known = read_model(
            files, config, config["text_config"], "sep_token_id", texts, min_count, is_random
        )
        prompt = tokenizer.encode([args.get("prompt", "")])[0][1:-1]
        return tokenizer, {**known, "prompt": prompt}

    def __init__(
        self,
        sizes: Sizes,
        *,
        model: str,
        revision: str = "",
        prompt: str = "",
        weights: Literal["pretrained", "random"] = "pretrained",
        lora: Lora | None = None,
    ):
        config = sizes.known["config"]
        says, files = config["text_config"], Files("blip", model, revision)
        body = files.read(lambda: _class()(_parsed(config)))
        opening = [says["bos_token_id"], *sizes.known["prompt"]]
        side, rows = config["vision_config"]["image_size"], says["vocab_size"]
        super().__init__(sizes, body, side, says["num_attention_heads"], rows, opening[-1])
        self.register_buffer(
            "opening", torch.tensor(opening[:-1], dtype=torch.long), persistent=False
        )
        self.config, self.files = config, files
        self.published = model if weights == "pretrained" else ""
        if lora is not None:
            self.adapt(body, self.published, lora, [self.layers, self.transform])

    @staticmethod
    def adopt(module: nn.Module, body: Any) -> None:
        says, head = body.text_decoder.bert, body.text_decoder.cls.predictions
        tied = head.decoder.weight is says.embeddings.word_embeddings.weight
        module.encoder, module.words, module.layers = (
            body.vision_model,
            says.embeddings,
            says.encoder.layer,
        )
        module.transform, module.bias = head.transform, head.decoder.bias
        module.register_parameter("output", None if tied else head.decoder.weight)

    def fetch(self) -> Any:
        return self.files.weights(_class(), _parsed(self.config)) if self.published else None

    def start(self, f: Features) -> State:
        """Return the state after the image and the prompt without its last word, which <start>
        stands for."""
        image = self.encoder(
            pixel_values=self.pixels(f.grid)
        ).last_hidden_state  # (B, S, its width)
        s: State = {}
        for n, layer in enumerate(self.layers):
            at = layer.crossattention.self
            (keys,), (values,) = self.by_head(at.key(image)), self.by_head(at.value(image))
            s |= {f"image_keys{n}": keys, f"image_values{n}": values}
            s |= {f"words_keys{n}": keys[:, :, :0], f"words_values{n}": values[:, :, :0]}
        if not len(self.opening):
            return s
        return self.run(self.opening.expand(f.pooled.shape[0], -1), s, None)[1]

    def run(
        self, ids: Tensor, s: State, captions: Captions | None, looks: list[Tensor] | None = None
    ) -> tuple[Tensor, State]:
        position = self.places(ids, s, self.words.position_embeddings.num_embeddings)
        x = self.words(input_ids=ids, position_ids=position)
        grown: State = {}
        for n, layer in enumerate(self.layers):
            at, to = layer.attention, layer.crossattention
            query, keys, values = (
                self.by_head(linear(x))[0] for linear in (at.self.query, at.self.key, at.self.value)
            )
            grown |= self.read_on(s, n, keys, values)
            seen = attend(
                query,
                grown[f"words_keys{n}"],
                grown[f"words_values{n}"],
                at.self.dropout,
                causal=True,
            )
            x = at.output(seen, x)
            (query,) = self.by_head(to.self.query(x))
            x = to.output(look(query, s, n, captions, to.self.dropout, looks=looks), x)
            x = layer.feed_forward_chunk(x)
        return x, s | grown

    def last_layer(self, hidden: Tensor) -> LastLayer:
        weight = self.words.word_embeddings.weight if self.output is None else self.output
        return LastLayer(self.transform(hidden), weight, self.bias)


def outline(*, model: str, **_: Any) -> tuple[int, dict[str, Any]] | None:
    """Return the number of vocabulary entries and `Sizes.known` of a well-known model, without its
    files.

    For any other model, return None.
    """
    if model not in KNOWN:
        return None
    config = _config(Files("blip", model), KNOWN[model])
    says = config["text_config"]
    return says["vocab_size"], {
        "config": config,
        **GREY,
        "start": says["bos_token_id"],
        "prompt": [],
    }


def _class() -> Any:
    from transformers import BlipForConditionalGeneration

    return BlipForConditionalGeneration


def _parsed(config: dict[str, Any]) -> Any:
    from transformers import BlipConfig

    return BlipConfig.from_dict(config)


def _config(files: Files, content: dict[str, Any]) -> dict[str, Any]:
    """Return config.json with every value that the network depends on."""
    whole = files.read(lambda: _parsed(content))
    parts = {
        "text_config": whole.text_config.to_dict(),
        "vision_config": whole.vision_config.to_dict(),
    }
    return plain({**whole.to_diff_dict(), **parts})
