"""The languages that captions may be written in (languages.yaml), and how each is tokenised."""

import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.core.yaml12 import read_yaml

ENGLISH = "en"
RIGHT_TO_LEFT = {"ARABIC", "HEBREW"}
# Scripts without spaces between words, as Unicode names their letters.
UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
# Language -> tokenizer; all other languages use `intl`.
TOKENIZERS = {
    "en": "ptb",
    "ja": "ja-mecab",
    "ko": "ko-mecab",
    "th": "newmm",
    "zh": "zh",
    **dict.fromkeys(["km", "lo", "my"], "char"),
}
ABOUT = {
    "ptb": "PTB tokenizer",
    "newmm": "PyThaiNLP's tokenizer newmm",
    **{name: f"sacrebleu's tokenizer {name}" for name in ("char", "intl", "ja-mecab", "ko-mecab")},
    "zh": "sacrebleu's tokenizer zh (characters)",
}


@dataclass(frozen=True)
class Language:
    code: str
    name: str
    scripts: tuple[str, ...]
    "Its scripts, as Unicode names their letters: LATIN, CJK, ..."

    @property
    def tokenizer(self) -> str:
        """A name in `ABOUT`. Scores compare the tokens of this tokenizer."""
        return TOKENIZERS.get(self.code, "intl")

    @property
    def spaced(self) -> bool:
        """Whether spaces separate its words."""
        return not UNSPACED.intersection(self.scripts)

    @property
    def direction(self) -> str:
        """Direction of its writing, as HTML's attribute `dir` names it."""
        return "rtl" if RIGHT_TO_LEFT.intersection(self.scripts) else "ltr"

    @property
    def letters(self) -> str:
        """Its scripts, as named in a sentence: `Devanagari`."""
        return ", ".join(name if name == "CJK" else name.capitalize() for name in self.scripts)


@cache
def languages() -> dict[str, Language]:
    """Return the languages by code, in alphabetical order."""
    found = {
        code: Language(code, name, tuple(scripts.split()))
        for scripts, names in read_yaml(Path(__file__).with_name("languages.yaml")).items()
        for code, name in names.items()
    }
    return dict(sorted(found.items()))


def find_language(code: str) -> Language:
    """Return the language of a code.

    Raises:
        UserError: there is no such language. The message names a similar code, and all codes.
    """
    known = languages()
    if code not in known:
        similar = nearest(code, known)
        raise UserError(f"unknown language '{code}'{similar}: there are {', '.join(known)}")
    return known[code]


@lru_cache(4096)
def script(letter: str) -> str:
    """Return the script of a letter: LATIN, CJK, ARABIC, ...; '' for anything else."""
    if letter.isascii():
        return "LATIN" if letter.isalpha() else ""
    if unicodedata.category(letter)[0] != "L":
        return ""
    name = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return "CJK" if name == "IDEOGRAPHIC" else name


def in_another_script(text: str, language: Language) -> bool:
    """Return whether a text has letters, but none in the language's scripts.

    A foreign name in a caption is thus no fault.
    """
    scripts = set(map(script, text)) - {""}
    return bool(scripts) and scripts.isdisjoint(language.scripts)
