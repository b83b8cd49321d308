"""How varied the captions are; the references are not used.

distinct_1, distinct_2: distinct n-grams / all n-grams over all captions (Li et al., 2016, "A
    diversity-promoting objective function"). Both fall as the number of captions grows, so they
    compare systems only on the same images.
distinct_captions: distinct captions / captions.
vocabulary: number of distinct words.
mean_length: words per caption.

A share of nothing (no caption has a word, or two words) is left out.
"""

from collections.abc import Hashable, Sequence
from itertools import pairwise

from pipeline.metrics.shared.base import Candidates, References, Scores, means_of


def score(candidates: Candidates, references: References) -> Scores:
    captions = [tuple(text.split()) for text in candidates.values()]
    unigrams = [word for words in captions for word in words]
    bigrams = [pair for words in captions for pair in pairwise(words)]
    shares: dict[str, Sequence[Hashable]] = {
        "distinct_1": unigrams,
        "distinct_2": bigrams,
        "distinct_captions": captions,
    }
    corpus = {name: len(set(things)) / len(things) for name, things in shares.items() if things}
    corpus["vocabulary"] = float(len(set(unigrams)))
    if captions:
        corpus["mean_length"] = len(unigrams) / len(captions)
    lengths = {
        "mean_length": {i: float(len(words)) for i, words in zip(candidates, captions, strict=True)}
    }
    return Scores(corpus, lengths, means_of(candidates, lengths))
