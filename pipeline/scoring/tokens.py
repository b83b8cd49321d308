"""Captions to the tokens that scores compare: the PTB tokenizer for English, the tokenizer of the
language for others."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from pipeline.languages.languages import ENGLISH, find_language
from pipeline.languages.text import joined
from pipeline.languages.tokens import tokens
from pipeline.scoring.ptb import ptb_lines


def token_lines(texts: Iterable[str], language: str) -> list[str]:
    """The tokens of each text, with single spaces between them.

    Raises:
        JavaFailed: as `ptb_lines` does.
        UserError: the tokenizer of the language is not installed.
    """
    if language == ENGLISH:
        return ptb_lines(texts)
    return [tokens(text, find_language(language)) for text in texts]


def tokenised(captions: Mapping[str, Sequence[str]], language: str) -> dict[str, list[str]]:
    """image_id -> captions -> the same as tokens. Errors as in `token_lines`."""
    lines = iter(token_lines((text for texts in captions.values() for text in texts), language))
    return {image: [next(lines) for _ in texts] for image, texts in captions.items()}


def training_captions(captions: pd.DataFrame, language: str) -> list[str]:
    """The different training captions of a corpus (image_id, text, split) as a model learns them,
    as tokens.

    Of the cleaned text: a model trained without one-letter words could never repeat a caption as it
    was published.
    """
    texts = captions.text[captions["split"] == "train"].unique()
    written = [joined(text, find_language(language)) for text in texts]
    return sorted(set(token_lines(written, language)))
