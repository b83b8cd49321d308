"""Which metrics can read a set of references: some read only English, most need words separated by
spaces.

If a language other than English is named, the metrics follow from the name. If none is named, the
texts decide:

- Their letters show whether they are in another script, or without spaces.
- A language in Latin letters counts as another than English if its most common words outnumber the
English ones.
- Languages whose words are not listed here are not recognised, and captions without any listed word
count as English.

So a set of English references is never refused.
"""

from collections import Counter
from functools import lru_cache

from pipeline.languages.languages import ENGLISH as EN
from pipeline.languages.languages import UNSPACED, find_language, script
from pipeline.metrics.shared.base import SETS, ReferenceSet

# Values that READS in a metric's module may have; without it, WORDS applies.
ENGLISH, WORDS, ANY = "English", "words", "any language"
# Letters per word above which words are taken to be unseparated. In scripts without spaces, words
# that are separated have two to four letters.
LONG = 5
KNOWN = frozenset(
    ["a", "an", "the", "of", "with", "and", "is", "are", "in", "on", "at", "to", "his"]
)
# Most common words of captions in German, French, Spanish, Italian, Portuguese, Dutch, Scandinavian
# languages, Polish, Turkish and Indonesian.
OTHERS = frozenset(
    """der die das und ein eine einem einen einer mit auf ist le la les un une des du de et dans sur
    est el los las una con en del y il di che nel sul dei uma um com da em een het van op met og och
    på av ett er i w na z się ve bir ile yang dan sebuah seorang""".split()  # noqa: SIM905
)


def why_not(reads: str, references: ReferenceSet) -> str:
    """Return why a metric that reads `reads` cannot score with these references; '' if it can."""
    if reads == ANY:
        return ""
    if why := not_for(reads, references.language):
        return why
    unparted, not_english = doubts(references)
    if unparted and reads == WORDS:
        return unparted
    return not_english if reads == ENGLISH else ""


def not_for(reads: str, language: str) -> str:
    """Return why a metric that reads `reads` cannot score captions in the named language; '' if it
    can."""
    if reads != ENGLISH or language == EN:
        return ""
    return f"it reads English, and the captions are in {find_language(language).name}"


@lru_cache(SETS)
def doubts(references: ReferenceSet) -> tuple[str, str]:
    """Return why these references have no words separated by spaces, and why they are not English.

    Each reason is '' if it does not apply.
    """
    letters, words = Counter[str](), Counter[str]()
    for texts in references.values():
        for text in texts:
            letters.update(text)
            words.update(text.split())
    of_script = Counter[str]()
    for letter, count in letters.items():
        of_script[script(letter)] += count
    total = sum(of_script.values()) - of_script[""]
    share = sum(of_script[script] for script in UNSPACED) / max(1, total)
    unspaced = share > 0.5 and total / max(1, words.total()) > LONG
    unparted = (
        "the references have no spaces between their words: name their language, or part them, in "
        "captions too"
        if unspaced
        else ""
    )
    return unparted, _not_english(1 - of_script["LATIN"] / max(1, total), words) if total else ""


def _not_english(elsewhere: float, words: Counter[str]) -> str:
    """Return why the references are not English, or ''.

    Args:
        elsewhere: share of letters that are not Latin.
    """
    if elsewhere > 0.5:
        return f"it reads English, and {elsewhere:.0%} of the references' letters are not Latin"
    english, other = (sum(words[word] for word in known) for known in (KNOWN, OTHERS))
    if other <= english:
        return ""
    return (
        f"it reads English, and the references' common words are of another language ({other} to "
        f"{english})"
    )
