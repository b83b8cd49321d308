"""Which metrics can read a set of references: some know English alone, most need words parted by
spaces.

What is written in another script, or without spaces, is found by its letters. A language in Latin
letters is taken for another than English where its commonest words outnumber the English ones; of
languages whose words are not listed here nothing is said, and captions without any such word count
as English. So a set of English references is never refused.
"""

import unicodedata
from collections import Counter
from functools import lru_cache

from pipeline.metrics.shared.base import SETS, ReferenceSet

ENGLISH, WORDS, ANY = "English", "words", "any language"
"what a metric's module may ask for as READS; without one, it is WORDS"
UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
"scripts without spaces between words, as Unicode names their letters"
LONG = 5
"letters a word: of these scripts, parted words have two to four"
KNOWN = frozenset(
    ["a", "an", "the", "of", "with", "and", "is", "are", "in", "on", "at", "to", "his"]
)
OTHERS = frozenset(
    """der die das und ein eine einem einen einer mit auf ist le la les un une des du de et dans sur
    est el los las una con en del y il di che nel sul dei uma um com da em een het van op met og och
    på av ett er i w na z się ve bir ile yang dan sebuah seorang""".split()  # noqa: SIM905
)
"""Commonest words of captions in German, French, Spanish, Italian, Portuguese, Dutch, Scandinavian
languages, Polish, Turkish and Indonesian."""


def why_not(reads: str, references: ReferenceSet) -> str:
    """Why a metric that reads this cannot tell of these references; '' if it can."""
    if reads == ANY:
        return ""
    script, language = doubts(references)
    if script and reads == WORDS:
        return script
    return language if reads == ENGLISH else ""


@lru_cache(SETS)
def doubts(references: ReferenceSet) -> tuple[str, str]:
    """Why these have no words parted by spaces, and why they are not English; '' where they are."""
    letters, words = Counter[str](), Counter[str]()
    for texts in references.values():
        for text in texts:
            letters.update(text)
            words.update(text.split())
    of_script = Counter[str]()
    for letter, count in letters.items():
        of_script[_script(letter)] += count
    total = sum(of_script.values()) - of_script[""]
    share = sum(of_script[script] for script in UNSPACED) / max(1, total)
    unspaced = share > 0.5 and total / max(1, words.total()) > LONG
    script = (
        "the references have no spaces between their words: part them, in captions too"
        if unspaced
        else ""
    )
    return script, _not_english(1 - of_script["LATIN"] / max(1, total), words) if total else ""


def _not_english(elsewhere: float, words: Counter[str]) -> str:
    """Args: elsewhere: share of letters that are not Latin."""
    if elsewhere > 0.5:
        return f"it reads English, and {elsewhere:.0%} of the references' letters are not Latin"
    english, other = (sum(words[word] for word in known) for known in (KNOWN, OTHERS))
    if other <= english:
        return ""
    return (
        f"it reads English, and the references' common words are of another language ({other} to "
        f"{english})"
    )


@lru_cache(4096)
def _script(letter: str) -> str:
    """LATIN, CJK, ARABIC, ...; '' for what is no letter."""
    if letter.isascii():
        return "LATIN" if letter.isalpha() else ""
    if unicodedata.category(letter)[0] != "L":
        return ""
    return unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
