"""Tokenise captions for scoring: English with the PTB tokenizer, other languages with their own
tokenizer."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from pipeline.languages.languages import ENGLISH, find_language
from pipeline.languages.text import joined
from pipeline.languages.tokens import tokens
from pipeline.scoring.ptb import ptb_lines


def token_lines(texts: Iterable[str], language: str) -> list[str]:
    """Return the tokens of each text, separated by single spaces.

    Raises:
        JavaFailed: see `ptb_lines`.
        UserError: the tokenizer of the language is not installed.
    """
    if language == ENGLISH:
        return ptb_lines(texts)
    return [tokens(text, find_language(language)) for text in texts]


def tokenised(captions: Mapping[str, Sequence[str]], language: str) -> dict[str, list[str]]:
    """Tokenise image_id -> captions. Raises as `token_lines` does."""
    lines = iter(token_lines((text for texts in captions.values() for text in texts), language))
    return {image: [next(lines) for _ in texts] for image, texts in captions.items()}


def training_captions(captions: pd.DataFrame, language: str) -> list[str]:
    """Return the distinct training captions of a corpus (image_id, text, split) as tokens.

    They are made from the cleaned text that a model learns. A model trained without one-letter
    words could never repeat a caption as it was published.
    """
    texts = captions.text[captions["split"] == "train"].unique()
    written = [joined(text, find_language(language)) for text in texts]
    return sorted(set(token_lines(written, language)))
