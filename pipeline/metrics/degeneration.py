"""Signs of degenerate captions. The references serve only to determine the language.

collapse: share of images that got the most frequent caption.
repetition: share of captions in which a run of words follows itself ("a red a red ball", "the
    the"), or three words in a row occur twice.
bad_endings: share of captions that break off after an article, a preposition or the like; left out
    if the references are not English.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.metrics.shared.base import Candidates, References, Scores, means_of, reference_set
from pipeline.metrics.shared.languages import ENGLISH, why_not

# Words that do not end an English caption.
OPEN_ENDINGS = {
    "a",
    "an",
    "the",
    "of",
    "with",
    "in",
    "on",
    "at",
    "to",
    "and",
    "or",
    "is",
    "are",
    "by",
    "for",
    "from",
    "his",
}


def bad_endings(captions: Iterable[str]) -> float:
    """Return the share of captions (0 to 1) that break off after an article, a preposition or the
    like.

    Rewards without end tokens lead to such captions. Empty captions are not counted.
    """
    last = [text.split()[-1] for text in captions if text.split()]
    return sum(word in OPEN_ENDINGS for word in last) / max(1, len(last))


def repeats(words: Sequence[str]) -> bool:
    """Return whether a run of words follows itself, or three words in a row occur twice
    (overlapping or not)."""
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(set(triples)) < len(triples):
        return True
    # The check above has found any longer run of words that follows itself.
    return any(
        words[i : i + n] == words[i + n : i + 2 * n]
        for n in (1, 2)
        for i in range(len(words) - 2 * n + 1)
    )


def score(candidates: Candidates, references: References) -> Scores:
    repeated = {i: float(repeats(text.split())) for i, text in candidates.items()}
    open_ended = {i: bad_endings([text]) for i, text in candidates.items() if text.split()}
    shares = {"repetition": repeated, "bad_endings": open_ended}
    if not candidates:
        return Scores({}, shares)
    (_, most), *_ = Counter(candidates.values()).most_common(1)
    if references and why_not(ENGLISH, reference_set(candidates, references)):
        del shares["bad_endings"]
    corpus = {
        "collapse": most / len(candidates),
        "repetition": sum(repeated.values()) / len(candidates),
    }
    if "bad_endings" in shares:
        corpus["bad_endings"] = bad_endings(candidates.values())
    return Scores(corpus, shares, means_of(candidates, shares))
