"""The files of a model published for transformers.

They are config.json, preprocessor_config.json, the tokenizer and the weights.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.core.errors import UserError
from pipeline.core.hub import cure, unusable
from pipeline.decoders.shared.tokenizers import (
    PAD,
    START,
    UNKNOWN,
    Tokenizer,
    language_model_tokenizer,
    word_tokenizer,
)

# Keys of a config.json that describe the file or another task, not the network.
OF_THE_FILE = {"_name_or_path", "architectures", "id2label", "label2id", "transformers_version"}

# Mean and standard deviation of the pictures' colours, if a model with random weights gives none.
GREY = {"mean": [0.5] * 3, "std": [0.5] * 3}


class Files(NamedTuple):
    """The files of the folder `model`, or of the model of that name on the hub or in its cache.

    Every method raises a UserError of one line, which begins with the decoder's name and says what
    to do.
    """

    decoder: str
    model: str
    revision: str = ""
    "Branch, tag or commit on the hub; empty for the newest."

    def read(self, load: Callable[[], Any]) -> Any:
        """Return what `load` makes of the files."""
        try:
            return load()
        except Exception as error:  # transformers, tokenizers, hub and network raise many kinds
            raise unusable(f"{self.decoder}: {self.name()}", self.model, error) from None

    def name(self) -> str:
        return f"'{self.model}'" + (f" at '{self.revision}'" if self.revision else "")

    def at(self) -> dict[str, str]:
        """Return the revision as an argument of `from_pretrained`."""
        return {"revision": self.revision} if self.revision else {}

    def path(self, name: str) -> Path | None:
        """Return the path of a file; None if there is no such file."""
        if Path(self.model).is_dir():
            return Path(self.model) / name if (Path(self.model) / name).is_file() else None
        from transformers.utils.hub import cached_file

        whatever = ("missing_entries", "connection_errors", "gated_repo")
        lenient = {f"_raise_exceptions_for_{what}": False for what in whatever}
        found = self.read(lambda: cached_file(self.model, name, **self.at(), **lenient))
        return Path(found) if found else None

    def missing(self, name: str) -> UserError:
        what = f"{self.model} has no {name}"
        if not Path(self.model).is_dir():
            what = f"{name} of {self.name()} is neither in the hub's cache nor on the hub now"
        return UserError(f"{self.decoder}: {what}: {cure(self.model)}")

    def json(self, name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        file = self.path(name)
        if file is None and default is None:
            raise self.missing(name)
        content = (
            default if file is None else self.read(lambda: json.loads(file.read_text("utf-8")))
        )
        if not isinstance(content, dict):
            raise UserError(f"{file} is not a JSON object")
        return content

    def check_type(self, content: Any, *known: str) -> None:
        kind = content.get("model_type") if isinstance(content, dict) else None
        if kind not in known:
            raise UserError(
                f"{self.decoder}: '{self.model}' is a model of type '{kind}', not "
                f"{' or '.join(known)} (see its config.json)"
            )

    def colours(self, optional: bool) -> dict[str, list[float]]:
        """Return the mean and standard deviation of red, green and blue, on the scale 0 to 1."""
        grey = {f"image_{name}": value for name, value in GREY.items()}
        content = self.json("preprocessor_config.json", grey if optional else None)
        if "image_mean" not in content or "image_std" not in content:
            raise UserError(
                f"{self.decoder}: preprocessor_config.json of '{self.model}' lacks "
                "image_mean or image_std: add them"
            )
        return {"mean": content["image_mean"], "std": content["image_std"]}

    def tokenizer(self, end: int | None, key: str, optional: bool) -> Tokenizer | None:
        """Return the model's own tokenizer; None if it has none and `optional` allows that.

        Args:
            end: id of the token that ends a caption; `key` of config.json gives it.
        """
        from tokenizers import Tokenizer as Inner
        from transformers import GPT2Tokenizer

        file = self.path("tokenizer.json")
        if file:
            inner = self.read(lambda: Inner.from_file(str(file)))
        elif self.path("vocab.json") and self.path("merges.txt"):
            load: Any = GPT2Tokenizer.from_pretrained
            inner = self.read(lambda: load(self.model, **self.at()).backend_tokenizer)
        elif optional:
            return None
        else:
            raise self.missing("tokenizer.json")
        token = None if end is None else inner.id_to_token(end)
        if token is None:
            raise UserError(
                f"{self.decoder}: {key} in config.json of '{self.model}' is not a token of "
                "its tokenizer.json: set it to the token that ends a caption"
            )
        return language_model_tokenizer(inner, token)

    def check_sizes(self, side: Any) -> None:
        if not isinstance(side, int):
            squares = "but must be one number: pictures are square"
            raise UserError(
                f"{self.decoder}: image_size in config.json of '{self.model}' is {side}, {squares}"
            )

    def check_vocabulary(self, tokenizer: Tokenizer, rows: int, start: Any, key: str) -> None:
        """Check that every id that may be read has a row of the embedding.

        `key` of config.json gives the first id, `start`.
        """
        if not isinstance(start, int) or not 0 <= start < rows:
            raise UserError(
                f"{self.decoder}: {key} in config.json of '{self.model}' is {start}, no id "
                f"below {rows}"
            )
        if (
            max(i for word, i in tokenizer.words().items() if word not in (PAD, START, UNKNOWN))
            >= rows
        ):
            raise UserError(
                f"{self.decoder}: the tokenizer of '{self.model}' has more tokens than "
                f"vocab_size {rows} in its config.json"
            )

    def weights(self, cls: Any, config: Any, fresh: str = "\n") -> Any:
        """Return the model with its weights.

        All weights must be there, except those with `fresh` in their name. transformers draws
        missing weights at random, with a warning.
        """
        load = cls.from_pretrained
        how = {"config": config, "dtype": torch.float32, "output_loading_info": True, **self.at()}
        body, info = self.read(lambda: load(self.model, **how))
        wrong = sorted(
            str(key)
            for key in (*info["missing_keys"], *info["mismatched_keys"])
            if fresh not in str(key)
        )
        if wrong:
            raise UserError(
                f"{self.decoder}: the weights of '{self.model}' lack {len(wrong)} parts of "
                f"the model (first: {wrong[0]})"
            )
        return body


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json without the keys that describe its file."""
    return {
        k: plain(v) if isinstance(v, dict) else v
        for k, v in content.items()
        if k not in OF_THE_FILE
    }


def words_of(texts: Iterable[str], min_count: int, part: dict[str, Any], end: str) -> Tokenizer:
    """Return a tokenizer of the captions' words, for random weights without a tokenizer.

    `part` of the config.json is changed to fit it.
    """
    tokenizer = word_tokenizer(texts, min_count)
    special = tokenizer.special
    part |= {
        "vocab_size": len(tokenizer),
        "pad_token_id": special.pad,
        "bos_token_id": special.start,
        end: special.end,
    }
    return tokenizer


def read_model(
    files: Files,
    config: dict[str, Any],
    language: dict[str, Any],
    end: str,
    texts: Iterable[str],
    min_count: int,
    is_random: bool,
) -> tuple[Tokenizer, dict[str, Any]]:
    """Return a tokenizer, and `Sizes.known`.

    The tokenizer is the model's own, or one of the captions' words. `Sizes.known` holds
    config.json, the mean and std of the pictures' colours, and our <start>.

    Args:
        config: config.json, with the part `vision_config`.
        language: the part of it that describes the words, possibly all of it. It is fitted to the
            captions' words if the model has no tokenizer.
        end: the key of `language` that names the token which ends a caption.
        is_random: whether the weights are random, so that config.json is enough.
    """
    tokenizer = files.tokenizer(language[end], end, optional=is_random)
    if tokenizer is None:
        tokenizer = words_of(texts, min_count, language, end)
    files.check_sizes(config["vision_config"]["image_size"])
    rows, start = language["vocab_size"], language["bos_token_id"]
    files.check_vocabulary(tokenizer, rows, start, "bos_token_id")
    colours = files.colours(optional=is_random)
    return tokenizer, {"config": config, **colours, "start": tokenizer.special.start}
