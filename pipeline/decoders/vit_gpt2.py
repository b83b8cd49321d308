"""ViT-GPT2: a vision transformer and a GPT-2 with cross-attention, trained together from the pixels on; transformers' layers
and weights (Dosovitskiy et al., 2021, "An Image Is Worth 16x16 Words"; Radford et al., 2019, "Language Models are Unsupervised
Multitask Learners"; Rothe et al., 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks").

v = ViT((pixels / 255 - mean) / std), through one linear layer where the two widths differ
x = embed(w) + position
per layer: x += self(norm(x));  x += cross(norm(x), v);  x += feed(norm(x))
p(w_t+1) = softmax(E norm(x_t)), with E the embedding itself unless the model's config.json unties them

W width of GPT-2, N heads of W / N, S positions that are attended to.
"""

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.decoders import base
from pipeline.decoders.base import Sizes, State, pick_rows
from pipeline.encoders.base import Features
from pipeline.errors import UserError
from pipeline.tokenizers import PAD, START, UNKNOWN, Tokenizer, language_model_tokenizer, word_tokenizer

OF_THE_FILE = {"_name_or_path", "architectures", "id2label", "label2id", "transformers_version"}
"keys of a config.json that tell of the file or of another task, not of the network"


class Decoder(base.Decoder):
    """Its features are those of the encoder `pixels`: the grid is the picture.

    Args:
        model: a vision-encoder-decoder of ViT and GPT-2, by its name on the hub or as a folder with config.json,
            preprocessor_config.json, tokenizer.json and the weights.
        encoder, decoder: in place of `model`, a ViT and a GPT-2 by name or folder; the attention between them starts at random.
        weights: `pretrained`, or `random`, for which config.json is enough: without a preprocessor_config.json mean and
            standard deviation are 0.5, without tokenizer files the vocabulary is that of the captions' words.

    State, per layer n: `words_keys<n>` and `words_values<n>` of the words read so far, one position longer each step, so that
    all rows of a state have read equally many; `image_keys<n>` and `image_values<n>`, computed once per image. All are
    (B, N, S, W / N).
    """

    mean: Tensor
    std: Tensor
    ids: Tensor
    encoder: Any  # modules of transformers, whose parts a type checker does not know
    projection: Any
    words: Any
    output: Any

    @classmethod
    def read(cls, texts: list[str], min_count: int, args: dict[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
        """The model's own tokenizer; known: its config.json, mean and std of its pictures' colours, and our <start>."""
        given = {**(cls.__init__.__kwdefaults__ or {}), **args}
        eyes, mouth = _sources(given["model"], given["encoder"], given["decoder"])
        config, is_random = _config(given["model"], eyes, mouth), given["weights"] == "random"
        tokenizer = _tokenizer(mouth, config, optional=is_random)
        if tokenizer is None:
            tokenizer = word_tokenizer(texts, min_count)
            start, end = tokenizer.special.start, tokenizer.special.end
            config["decoder"] |= {"vocab_size": len(tokenizer), "bos_token_id": start, "eos_token_id": end}
            config |= {"decoder_start_token_id": start, "eos_token_id": end}
        _check_sizes(config, tokenizer, eyes, mouth)
        mean, std = _colours(eyes, optional=is_random)
        return tokenizer, {"config": config, "mean": mean, "std": std, "start": tokenizer.special.start}

    def __init__(
        self,
        sizes: Sizes,
        *,
        model: str = "",
        encoder: str = "",
        decoder: str = "",
        weights: Literal["pretrained", "random"] = "pretrained",
    ):
        super().__init__()
        if sizes.grid != 3:
            raise UserError(f"vit_gpt2 sees pictures, not a grid {sizes.grid} wide: give it features of the encoder pixels")
        known = sizes.known
        self.config = config = known["config"]
        self.sources, self.weights = (model, encoder, decoder), weights
        self.side, self.heads = config["encoder"]["image_size"], config["decoder"]["n_head"]
        body = _of_files(model or f"{encoder} + {decoder}", lambda: _built(config))
        for name, part in _parts(body).items():
            self.add_module(name, part)
        self.register_buffer("mean", torch.tensor(known["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(known["std"]).view(3, 1, 1), persistent=False)
        ids, start = torch.arange(sizes.vocabulary), config["decoder_start_token_id"]
        ids[ids >= config["decoder"]["vocab_size"]] = start  # padding, which nothing depends on
        ids[known["start"]] = start
        self.register_buffer("ids", ids, persistent=False)

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        if self.weights == "pretrained":
            for name, part in _parts(_published(self.config, *self.sources)).items():
                if part is not None:
                    self.get_submodule(name).load_state_dict(part.state_dict())

    def start(self, f: Features) -> State:
        image = self.projection(self.encoder(pixel_values=self._pixels(f.grid)).last_hidden_state)  # (B, S, W)
        state: State = {}
        for n, layer in enumerate(self.words.h):
            keys, values = self._heads(layer.crossattention.c_attn(image), 2)
            state |= {f"image_keys{n}": keys, f"image_values{n}": values}
            state |= {f"words_keys{n}": keys[:, :, :0], f"words_values{n}": values[:, :, :0]}
        return state

    def advance(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        hidden, s = self._run(tokens[:, None], s, None)
        return hidden[:, 0], s

    def unroll(self, f: Features, tokens: Tensor, lengths: Tensor, rows: Tensor | None) -> tuple[Tensor, State]:
        """All positions of all rows at once, under a causal mask; what is of the image is not repeated for its rows."""
        s = self.start(f)
        if rows is not None:
            s |= pick_rows({name: value for name, value in s.items() if name.startswith("words")}, rows)
        hidden, _ = self._run(tokens, s, None if rows is None else _Captions.of(rows, len(f)))
        past_end = torch.arange(tokens.shape[1]) >= lengths[:, None]
        return hidden.masked_fill(past_end.to(hidden.device)[..., None], 0.0), {}

    def project(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.words.wte.weight if self.output is None else self.output.weight)

    def _pixels(self, grid: Tensor) -> Tensor:
        """(B, P, 3) of 0-255 -> (B, 3, side, side), normalised."""
        if grid.shape[1] != self.side**2:
            raise UserError(
                f"vit_gpt2: this model sees pictures of {self.side} x {self.side} pixels, the features have {grid.shape[1]} "
                f"positions: set image_size of the encoder pixels to {self.side}"
            )
        pictures = grid.transpose(1, 2).unflatten(2, (self.side, self.side))
        return (pictures / 255 - self.mean) / self.std

    def _heads(self, x: Tensor, count: int) -> list[Tensor]:
        """(R, T, count * W) -> count times (R, N, T, W / N)."""
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(count, -1)]

    def _run(self, tokens: Tensor, s: State, captions: "_Captions | None") -> tuple[Tensor, State]:
        """Tokens (R, T) -> hidden (R, T, W) and the next state; either T = 1, or no words have been read yet.

        Without `captions`, each row has an image of its own in the state.
        """
        read, longest = s["words_keys0"].shape[2], len(self.words.wpe.weight)
        if read + tokens.shape[1] > longest:
            raise UserError(f"vit_gpt2: this model reads {longest} tokens: lower max_words of the corpus or decode.max_tokens")
        position = torch.arange(read, read + tokens.shape[1], device=tokens.device)
        x = self.words.drop(self.words.wte(self.ids[tokens]) + self.words.wpe(position))
        grown: State = {}
        for n, layer in enumerate(self.words.h):
            query, keys, values = self._heads(layer.attn.c_attn(layer.ln_1(x)), 3)
            keys, values = torch.cat([s[f"words_keys{n}"], keys], 2), torch.cat([s[f"words_values{n}"], values], 2)
            grown |= {f"words_keys{n}": keys, f"words_values{n}": values}
            x = x + _output(layer.attn, _attend(layer.attn, query, keys, values, causal=tokens.shape[1] > 1))
            (query,) = self._heads(layer.crossattention.q_attn(layer.ln_cross_attn(x)), 1)
            query = captions.join(query) if captions else query
            seen = _attend(layer.crossattention, query, s[f"image_keys{n}"], s[f"image_values{n}"])
            x = x + _output(layer.crossattention, captions.part(seen) if captions else seen)
            x = x + layer.mlp(layer.ln_2(x))
        return self.words.ln_f(x), s | grown


class _Captions(NamedTuple):
    """R rows as captions of their B images, so that an image's keys are multiplied once with all its captions."""

    image: Tensor  # (R,)
    number: Tensor  # (R,), among the captions of the same image
    shape: tuple[int, int]
    "B, and how many captions an image has at most"

    @classmethod
    def of(cls, rows: Tensor, images: int) -> "_Captions":
        number = (rows[:, None] == rows).tril(-1).sum(1)
        return cls(rows, number, (images, int(number.max()) + 1))

    def join(self, query: Tensor) -> Tensor:
        """(R, N, T, W / N) -> (B, N, captions * T, W / N), zero where an image has fewer."""
        padded = query.new_zeros(*self.shape, *query.shape[1:]).index_put((self.image, self.number), query)
        return padded.transpose(1, 2).flatten(2, 3)

    def part(self, seen: Tensor) -> Tensor:
        """The reverse of `join`."""
        return seen.unflatten(2, (self.shape[1], -1)).transpose(1, 2)[self.image, self.number]


def _attend(attention: Any, query: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
    dropout = attention.attn_dropout.p if attention.training else 0.0
    return F.scaled_dot_product_attention(query, keys, values, dropout_p=dropout, is_causal=causal, scale=attention.scaling)


def _output(attention: Any, out: Tensor) -> Tensor:
    """What the heads saw (R, N, T, W / N) -> (R, T, W)."""
    return attention.resid_dropout(attention.c_proj(out.transpose(1, 2).flatten(2)))


def _sources(model: str, encoder: str, decoder: str) -> tuple[str, str]:
    """Where sizes and colours of the pictures, and the tokenizer, are read from."""
    if [bool(model), bool(encoder), bool(decoder)] not in ([True, False, False], [False, True, True]):
        raise UserError("args of a vit_gpt2: give `model`, or both `encoder` and `decoder`")
    return encoder or model, decoder or model


def _config(model: str, encoder: str, decoder: str) -> dict[str, Any]:
    """config.json of the whole model, with every value that the network depends on."""
    from transformers import VisionEncoderDecoderConfig

    if model:
        content = _json(model, "config.json")
        _check_type(content, model, "vision-encoder-decoder")
        starts = [c.get("decoder_start_token_id") for c in (content, _json(model, "generation_config.json", {}))]
    else:
        content, starts = {"encoder": _json(encoder, "config.json"), "decoder": _json(decoder, "config.json")}, []
    _check_type(content.get("encoder"), encoder, "vit", "deit")
    _check_type(content.get("decoder"), decoder, "gpt2")
    content["decoder"] |= {"is_decoder": True, "add_cross_attention": True}
    whole = _of_files(model or f"{encoder} + {decoder}", lambda: VisionEncoderDecoderConfig.from_dict(content))
    start, end = _first(*starts, whole.decoder.bos_token_id), _first(content.get("eos_token_id"), whole.decoder.eos_token_id)
    return {**_plain(whole.to_diff_dict()), "decoder_start_token_id": start, "eos_token_id": end}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check_type(content: Any, model: str, *known: str) -> None:
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in known:
        raise UserError(f"vit_gpt2: '{model}' is a model of type '{kind}', not {' or '.join(known)} (see its config.json)")


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {k: _plain(v) if isinstance(v, dict) else v for k, v in content.items() if k not in OF_THE_FILE}


def _tokenizer(model: str, config: dict[str, Any], optional: bool) -> Tokenizer | None:
    """That of the model's files; None where it has none and need not."""
    from tokenizers import Tokenizer as Inner
    from transformers import GPT2Tokenizer

    file = _file(model, "tokenizer.json")
    if file:
        inner = _of_files(model, lambda: Inner.from_file(str(file)))
    elif _file(model, "vocab.json") and _file(model, "merges.txt"):
        inner = _of_files(model, lambda: GPT2Tokenizer.from_pretrained(model).backend_tokenizer)
    elif optional:
        return None
    else:
        raise _missing(model, "tokenizer.json")
    end = None if config["eos_token_id"] is None else inner.id_to_token(config["eos_token_id"])
    if end is None:
        raise UserError(f"vit_gpt2: eos_token_id in config.json of '{model}' is no token of its tokenizer.json: name its end")
    return language_model_tokenizer(inner, end)


def _check_sizes(config: dict[str, Any], tokenizer: Tokenizer, eyes: str, mouth: str) -> None:
    side, vocabulary, start = config["encoder"]["image_size"], config["decoder"]["vocab_size"], config["decoder_start_token_id"]
    if not isinstance(side, int):
        raise UserError(f"vit_gpt2: image_size in config.json of '{eyes}' is {side}, not one number: pictures are squares here")
    if not isinstance(start, int) or not 0 <= start < vocabulary:
        raise UserError(f"vit_gpt2: decoder_start_token_id in config.json of '{mouth}' is {start}, no id below {vocabulary}")
    if max(i for word, i in tokenizer.words().items() if word not in (PAD, START, UNKNOWN)) >= vocabulary:
        raise UserError(f"vit_gpt2: the tokenizer of '{mouth}' has more tokens than vocab_size {vocabulary} in its config.json")


def _colours(model: str, optional: bool) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of red, green and blue, on the scale 0 to 1."""
    content = _json(model, "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if optional else None)
    if "image_mean" not in content or "image_std" not in content:
        raise UserError(f"vit_gpt2: preprocessor_config.json of '{model}' lacks image_mean or image_std: add them")
    return content["image_mean"], content["image_std"]


def _json(model: str, name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    file = _file(model, name)
    if file is None and default is None:
        raise _missing(model, name)
    content = default if file is None else _of_files(model, lambda: json.loads(file.read_text("utf-8")))
    if not isinstance(content, dict):
        raise UserError(f"{file} is no JSON object")
    return content


def _file(model: str, name: str) -> Path | None:
    """A file of the folder `model`, or of the model of that name on the hub or in its cache; None where there is none."""
    if Path(model).is_dir():
        return Path(model) / name if (Path(model) / name).is_file() else None
    from transformers.utils.hub import cached_file

    whatever = ("missing_entries", "connection_errors", "gated_repo")
    lenient = {f"_raise_exceptions_for_{what}": False for what in whatever}
    found = _of_files(model, lambda: cached_file(model, name, **lenient))
    return Path(found) if found else None


def _missing(model: str, name: str) -> UserError:
    from huggingface_hub import constants

    if Path(model).is_dir():
        return UserError(f"vit_gpt2: {model} has no {name}: put there what the model's page on the hub lists")
    return UserError(
        f"vit_gpt2: {name} of '{model}' is not in the hub's cache {constants.HF_HUB_CACHE}, nor found on the hub now: "
        "fill that cache (HF_HOME moves it), or give a local folder"
    )


def _of_files(model: str, load: Callable[[], Any]) -> Any:
    """What `load` makes of the model's files."""
    try:
        return load()
    except Exception as error:  # transformers, tokenizers, the hub and the network fail in many ways
        from huggingface_hub import constants

        cure = "put there what the model's page on the hub lists"
        if not any(Path(part).is_dir() for part in model.split(" + ")):
            cure = f"put it in the hub's cache {constants.HF_HUB_CACHE} (HF_HOME moves it), or give a local folder"
        reason = shorten(f"{type(error).__name__}: {error}", 160)
        raise UserError(f"vit_gpt2: '{model}' cannot be used ({reason}): {cure}") from None


def _built(config: dict[str, Any]) -> Any:
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    return VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_dict(config))


def _published(config: dict[str, Any], model: str, encoder: str, decoder: str) -> Any:
    from transformers import AutoModel, GPT2LMHeadModel, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    whole = VisionEncoderDecoderConfig.from_dict(config)
    if model:
        return _with_weights(VisionEncoderDecoderModel, model, whole, "encoder.pooler.")
    sees = _with_weights(AutoModel, encoder, whole.encoder, "pooler.")
    return VisionEncoderDecoderModel(encoder=sees, decoder=_with_weights(GPT2LMHeadModel, decoder, whole.decoder, "cross"))


def _with_weights(cls: Any, model: str, config: Any, fresh: str) -> Any:
    """All weights must be there but those with `fresh` in their name: transformers draws what is missing, with a warning."""
    load = cls.from_pretrained
    body, info = _of_files(model, lambda: load(model, config=config, dtype=torch.float32, output_loading_info=True))
    wrong = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]) if fresh not in str(key))
    if wrong:
        raise UserError(f"vit_gpt2: the weights of '{model}' lack {len(wrong)} parts of the model (first: {wrong[0]})")
    return body


def _parts(body: Any) -> dict[str, nn.Module | None]:
    """Modules of a VisionEncoderDecoderModel that hold each weight once; the ViT's pooler, which nothing reads, is left out."""
    body.encoder.pooler = None
    says = body.decoder
    tied = says.lm_head.weight is says.transformer.wte.weight
    projection = getattr(body, "enc_to_dec_proj", nn.Identity())
    output = None if tied else says.lm_head
    return {"encoder": body.encoder, "projection": projection, "words": says.transformer, "output": output}
