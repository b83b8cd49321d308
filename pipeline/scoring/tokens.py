"""Tokenise captions for scoring: English with the PTB tokenizer, other languages with their own
tokenizer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from pipeline.core.on_disk import OnDisk
from pipeline.languages.languages import ENGLISH, find_language
from pipeline.languages.text import joined
from pipeline.languages.tokens import tokens
from pipeline.scoring.ptb import ptb_lines

# Number of captions that are tokenised at once. Each start of Java costs half a second.
CAPTIONS = 100_000


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


def training_captions(texts: Iterable[str], language: str) -> Iterator[str]:
    """Yield the distinct training captions of a corpus as tokens, in the order of their code
    points. Memory does not grow with their number.

    Args:
        texts: the cleaned text that a model learns. A model trained without one-letter words could
            never repeat a caption as it was published.

    Raises:
        JavaFailed, UserError: as in `token_lines`.
    """
    found, rest = OnDisk(), iter(texts)
    while some := list(islice(rest, CAPTIONS)):
        written = [joined(text, find_language(language)) for text in dict.fromkeys(some)]
        found.put((line,) for line in token_lines(written, language))
    for (line,) in found:
        yield line
