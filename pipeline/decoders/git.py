"""GIT: one transformer reads the patches of a picture and then the words of its caption. It uses
transformers' layers and weights (Wang et al., 2022, "GIT: A Generative Image-to-text Transformer
for Vision and Language", section 3).

v = norm(A ViT((pixels / 255 - mean) / std))
x = [v, norm(embed(w) + position)]
per layer: x = norm(x + self(x));  x = norm(x + feed(x))
p(w_t+1) = softmax(E x_t + b)

A patch attends to all patches; a word attends to them and to earlier words. No patch attends to a
word. A picture therefore passes the layers once, and its keys and values serve all its captions.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.ranges import Lora
from pipeline.decoders.shared import pretrained
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.hub_files import GREY, Files, plain, read_model
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.pretrained import Captions, attend
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features

LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
# config.json of the models whose cost can be computed without a network. Keys that are left out
# have their usual values.
KNOWN: dict[str, dict[str, Any]] = {
    "microsoft/git-base": {"vision_config": {}},
    "microsoft/git-base-coco": {"vision_config": {}},
    "microsoft/git-large": {"vision_config": LARGE},
    "microsoft/git-large-coco": {"vision_config": LARGE},
}


class Decoder(pretrained.Decoder):
    """Reads the features of the encoder `pixels`: the grid is the picture.

    Args:
        model: a GIT for pictures. Give its name on the hub, or a folder with config.json,
            preprocessor_config.json, tokenizer.json and the weights.
        revision: a branch, tag or commit of the model on the hub; empty for the newest.
        weights: `random` needs only config.json. Without a preprocessor_config.json, mean and
            standard deviation are then 0.5. Without tokenizer files, the vocabulary is the
            captions' words.
        lora: train an adapter of low rank in the layers that read patches and words, and nothing
            else. Its settings are those of the decoder `vlm`. The default trains all weights.
    """

    reads = "grid"
    encoder: Any  # modules of transformers, whose parts a type checker does not know
    projection: Any
    words: Any
    layers: Any
    output: Any
    bias: Tensor

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return a tokenizer, and `Sizes.known`.

        The tokenizer is the model's own, if it has one. `Sizes.known` holds its config.json, the
        mean and std of its pictures' colours, and our <start>.
        """
        files = Files("git", args["model"], args.get("revision", ""))
        is_random = args.get("weights") == "random"
        content = files.json("config.json")
        files.check_type(content, "git")
        config = _config(files, content)
        if config.get("num_image_with_embedding") is not None:
            raise UserError(
                f"git: '{args['model']}' captions films, not pictures "
                "(num_image_with_embedding in its config.json)"
            )
        return read_model(files, config, config, "eos_token_id", texts, min_count, is_random)

    def __init__(
        self,
        sizes: Sizes,
        *,
        model: str,
        revision: str = "",
        weights: Literal["pretrained", "random"] = "pretrained",
        lora: Lora | None = None,
    ):
        config, files = sizes.known["config"], Files("git", model, revision)
        body = files.read(lambda: _class()(_parsed(config)))
        side, heads = config["vision_config"]["image_size"], config["num_attention_heads"]
        super().__init__(sizes, body, side, heads, config["vocab_size"], config["bos_token_id"])
        self.config, self.files = config, files
        self.published = model if weights == "pretrained" else ""
        if lora is not None:
            self.adapt(body, self.published, lora, [self.layers])

    @staticmethod
    def adopt(module: nn.Module, body: Any) -> None:
        tied = body.output.weight is body.git.embeddings.word_embeddings.weight
        module.encoder, module.projection = body.git.image_encoder, body.git.visual_projection
        module.words, module.layers, module.bias = (
            body.git.embeddings,
            body.git.encoder.layer,
            body.output.bias,
        )
        module.register_parameter("output", None if tied else body.output.weight)

    def fetch(self) -> Any:
        return self.files.weights(_class(), _parsed(self.config)) if self.published else None

    def start(self, f: Features) -> State:
        x = self.projection(
            self.encoder(pixel_values=self.pixels(f.grid)).last_hidden_state
        )  # (B, S, W)
        s: State = {}
        for n, layer in enumerate(self.layers):
            query, keys, values = self._queries_keys_values(layer, x)
            s |= {f"image_keys{n}": keys, f"image_values{n}": values}
            s |= {f"words_keys{n}": keys[:, :, :0], f"words_values{n}": values[:, :, :0]}
            if n + 1 < len(self.layers):  # words need only the last layer's keys and values
                x = _after(
                    layer,
                    attend(query, keys, values, layer.attention.self.dropout, causal=False),
                    x,
                )
        return s

    def run(
        self, ids: Tensor, s: State, captions: Captions | None, looks: list[Tensor] | None = None
    ) -> tuple[Tensor, State]:
        position = self.places(ids, s, self.words.position_embeddings.num_embeddings)
        x = self.words(input_ids=ids, position_ids=position)
        grown: State = {}
        for n, layer in enumerate(self.layers):
            query, keys, values = self._queries_keys_values(layer, x)
            grown |= self.read_on(s, n, keys, values)
            keys, values = (
                torch.cat(
                    [
                        s[f"image_{what}{n}"][captions.image if captions else ...],
                        grown[f"words_{what}{n}"],
                    ],
                    2,
                )
                for what in ("keys", "values")
            )
            x = _after(
                layer,
                attend(query, keys, values, layer.attention.self.dropout, causal=True, looks=looks),
                x,
            )
        return x, s | grown

    def last_layer(self, hidden: Tensor) -> LastLayer:
        return LastLayer(
            hidden,
            self.words.word_embeddings.weight if self.output is None else self.output,
            self.bias,
        )

    def _queries_keys_values(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, T, W) -> (R, N, T, W / N) each."""
        at = layer.attention.self
        return (
            self.by_head(at.query(x))[0],
            self.by_head(at.key(x))[0],
            self.by_head(at.value(x))[0],
        )


def _after(layer: Any, seen: Tensor, x: Tensor) -> Tensor:
    """Compute the rest of a layer whose heads saw `seen`; both tensors are (R, T, W)."""
    return layer.feed_forward_chunk(layer.attention.output(seen, x))


def outline(*, model: str, **_: Any) -> tuple[int, dict[str, Any]] | None:
    """Return the number of vocabulary entries and `Sizes.known` of a well-known model, without its
    files.

    For any other model, return None.
    """
    if model not in KNOWN:
        return None
    config = _config(Files("git", model), KNOWN[model])
    return config["vocab_size"], {"config": config, **GREY, "start": config["bos_token_id"]}


def _class() -> Any:
    from transformers import GitForCausalLM

    return GitForCausalLM


def _parsed(config: dict[str, Any]) -> Any:
    from transformers import GitConfig

    return GitConfig.from_dict(config)


def _config(files: Files, content: dict[str, Any]) -> dict[str, Any]:
    """Return config.json with every value that the network depends on."""
    whole = files.read(lambda: _parsed(content))
    return plain({**whole.to_dict(), "vision_config": whole.vision_config.to_dict()})
