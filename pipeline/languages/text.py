"""A caption of another language than English: one spelling of equal letters, its punctuation, and
the spaces between its tokens.

English captions are cleaned as they always were (cleaning/clean.py).
"""

import re
import unicodedata
from functools import cache

import regex

from pipeline.languages.languages import Language

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07\u00b4", "'"))
UNSEEN = str.maketrans({
    **dict.fromkeys("\u200b\ufeff", " "),
    **dict.fromkeys("\u00ad\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"),
})  # fmt: skip
"""Spaces without width part words. Soft hyphens, and marks that turn the direction of a line, are
no part of a word: the same word with and without them would be two."""
JOINERS = "'\u00b7\u05f3\u05f4\u200c\u200d"
"""inside a word, a part of it: the apostrophe, Catalan's dot, Hebrew's geresh and gershayim, the
joiner and the non-joiner of Arabic and Indic scripts"""
NO_WORD = regex.compile(
    rf"(?<![\p{{L}}\p{{M}}])[{JOINERS}]|[{JOINERS}](?![\p{{L}}\p{{M}}])"
    rf"|[^\p{{L}}\p{{M}}\p{{N}}\s{JOINERS}]|[\ufe00-\ufe0f]"
)
LONE_MARKS = regex.compile(r"(?<!\S)\p{M}+")
"marks whose letter was taken away: they would begin a word"
PUNCTUATION = regex.compile(rf"[\p{{P}}{JOINERS}]+")
DOTLESS = str.maketrans({"I": "ı", "İ": "i"})
GLUED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々〇"
"letters of scripts without spaces"


def normalised(text: str, language: Language, lower: bool) -> str:
    """Equal texts as equal strings: NFC, one apostrophe, no invisible signs; lower-cased as the
    language does it."""
    text = unicodedata.normalize("NFC", text).translate(APOSTROPHES).translate(UNSEEN)
    if not lower:
        return text
    if language.code in ("az", "tr"):  # I is the capital of ı
        text = text.translate(DOTLESS)
    return unicodedata.normalize("NFC", text.lower())


def without_punctuation(text: str) -> str:
    """Letters, their marks, numbers and what joins letters; all else parts words."""
    return str(LONE_MARKS.sub("", NO_WORD.sub(" ", text)))


def is_punctuation(token: str) -> bool:
    return PUNCTUATION.fullmatch(token) is not None


def joined(text: str, language: Language) -> str:
    """Tokens as a person writes them: without spaces where the script has none."""
    return text if language.spaced else str(_glue().sub("", text))


def glue() -> str:
    """A regular expression for the spaces that `joined` takes away. Oniguruma, which the library
    tokenizers has, reads it too."""
    return rf"(?<=[{GLUED}]) | (?=[{GLUED}])"


@cache
def _glue() -> "re.Pattern[str]":
    pattern: re.Pattern[str] = regex.compile(glue())
    return pattern
