"""Text of captions in languages other than English: one spelling of equal letters, punctuation, and
the spaces between tokens.

English captions are cleaned by cleaning/clean.py, as they always were.
"""

import re
import unicodedata
from functools import cache

import regex

from pipeline.languages.languages import Language

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07\u00b4", "'"))
# Spaces without width separate words. Soft hyphens, and marks that change the direction of a line,
# are not part of a word. If they stayed, the same word with and without them would count as two.
UNSEEN = str.maketrans({
    **dict.fromkeys("\u200b\ufeff", " "),
    **dict.fromkeys("\u00ad\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"),
})  # fmt: skip
# Characters that are part of a word when they are inside it: the apostrophe, Catalan's dot,
# Hebrew's geresh and gershayim, and the joiner and non-joiner of Arabic and Indic scripts.
JOINERS = "'\u00b7\u05f3\u05f4\u200c\u200d"
NO_WORD = regex.compile(
    rf"(?<![\p{{L}}\p{{M}}])[{JOINERS}]|[{JOINERS}](?![\p{{L}}\p{{M}}])"
    rf"|[^\p{{L}}\p{{M}}\p{{N}}\s{JOINERS}]|[\ufe00-\ufe0f]"
)
# Marks whose letter was removed: they would begin a word.
LONE_MARKS = regex.compile(r"(?<!\S)\p{M}+")
PUNCTUATION = regex.compile(rf"[\p{{P}}{JOINERS}]+")
DOTLESS = str.maketrans({"I": "ı", "İ": "i"})
# Letters of scripts without spaces.
GLUED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々〇"


def normalised(text: str, language: Language, lower: bool) -> str:
    """Return equal texts as equal strings: NFC, one kind of apostrophe, no invisible characters.

    With `lower`, the text is lower-cased by the rules of the language.
    """
    text = unicodedata.normalize("NFC", text).translate(APOSTROPHES).translate(UNSEEN)
    if not lower:
        return text
    if language.code in ("az", "tr"):  # I is the capital of ı
        text = text.translate(DOTLESS)
    return unicodedata.normalize("NFC", text.lower())


def without_punctuation(text: str) -> str:
    """Keep letters, their marks, numbers, and characters that join letters; all else separates
    words."""
    return str(LONE_MARKS.sub("", NO_WORD.sub(" ", text)))


def is_punctuation(token: str) -> bool:
    return PUNCTUATION.fullmatch(token) is not None


def joined(text: str, language: Language) -> str:
    """Return tokens as a person writes them: without spaces if the script has none."""
    return text if language.spaced else str(_glue().sub("", text))


def glue() -> str:
    """Return a regular expression for the spaces that `joined` removes.

    Oniguruma, which the library tokenizers uses, can read it too.
    """
    return rf"(?<=[{GLUED}]) | (?=[{GLUED}])"


@cache
def _glue() -> "re.Pattern[str]":
    pattern: re.Pattern[str] = regex.compile(glue())
    return pattern
