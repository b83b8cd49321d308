"""Features -> captions, with the keys of `decode` in params.yaml.

Captions come from a search, or are the best of several samples.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.generation import Hypothesis
from pipeline.decoding.sampling import sample
from pipeline.decoding.search import beam_search, ranking_score
from pipeline.features.features import Features

# Number of captions drawn at once. The keys and values of a language model take megabytes for each.
ROWS = 64


class Alternative(NamedTuple):
    text: str
    log_prob: float
    "Natural logarithm of the probability of the whole caption, including its end token."
    score: float
    """Alternatives are ordered by this value, the best first. It is log_prob / tokens **
    length_penalty, or the decoder's own judgement of a sample (`Decoder.judge`)."""


@dataclass(frozen=True)
class Caption:
    text: str
    log_prob: float
    "Natural logarithm of the probability of the whole caption, including its end token."
    tokens: int
    "Number of tokens, including the end token."
    alternatives: list[Alternative]
    "The best hypotheses, the caption itself first."
    words: str = ""
    "The text with a space between any two words, even if its script has none. Used by `explain`."


def caption_features(
    decoder: Decoder, tokenizer: Tokenizer, f: Features, decoding: dict[str, Any]
) -> list[Caption]:
    """Caption by sampling or beam search (beam 1 is greedy), with the keys of params.yaml's
    `decode`.

    Raises:
        UserError: the decoder's probabilities for an image are not finite.
    """
    if decoding["samples"]:
        parts = torch.arange(len(f), device=f.pooled.device).split(
            max(1, ROWS // decoding["samples"])
        )
        found = [
            best
            for part in parts
            for best in _best_samples(decoder, tokenizer, f.select(part), decoding)
        ]
    else:
        longest, penalty = decoding["max_tokens"], decoding["length_penalty"]
        ended = beam_search(decoder, f, tokenizer.special, decoding["beam"], longest, penalty)
        found = [[(ranking_score(h, penalty), h) for h in hypotheses] for hypotheses in ended]
    if not all(map(_finite, found)):
        raise UserError(
            "the model's probabilities are not finite for an image: its weights are too large, or "
            "the image's features are not numbers; train the model again with a lower train.lr, "
            "or extract the features again"
        )
    return [_caption(hypotheses, tokenizer, decoding["alternatives"]) for hypotheses in found]


def _finite(ranked: list[tuple[float, Hypothesis]]) -> bool:
    """Tell whether there is a hypothesis, and all have finite scores: a search drops those whose
    probability is zero or not a number."""
    return bool(ranked) and all(
        math.isfinite(score) and math.isfinite(h.log_prob) for score, h in ranked
    )


def _best_samples(
    decoder: Decoder, tokenizer: Tokenizer, f: Features, decoding: dict[str, Any]
) -> list[list[tuple[float, Hypothesis]]]:
    """Return each image's different samples with their scores, best first.

    The score is the decoder's judgement of the text, or else based on the log-probability.
    """
    keys = ("samples", "max_tokens", "temperature", "top_k", "seed")
    drawn = sample(decoder, f, tokenizer.special, *(decoding[key] for key in keys))
    drawn = [list({h.tokens: h for h in hypotheses}.values()) for hypotheses in drawn]
    every = [h for hypotheses in drawn for h in hypotheses]
    rows = torch.tensor(
        [image for image, hypotheses in enumerate(drawn) for _ in hypotheses],
        device=f.pooled.device,
    )
    judged = (
        decoder.judge(f, [tokenizer.decode(h.tokens) for h in every], rows)
        if len(every) > len(drawn)
        else None
    )
    scores = iter(
        [ranking_score(h, decoding["length_penalty"]) for h in every]
        if judged is None
        else judged.tolist()
    )
    scored = [[(next(scores), h) for h in hypotheses] for hypotheses in drawn]
    return [sorted(pairs, key=lambda pair: -pair[0]) for pairs in scored]


def _caption(ranked: list[tuple[float, Hypothesis]], tokenizer: Tokenizer, count: int) -> Caption:
    alternatives = [
        Alternative(tokenizer.decode(h.tokens), h.log_prob, score) for score, h in ranked[:count]
    ]
    best = ranked[0][1]
    words = tokenizer.parted(best.tokens)
    return Caption(alternatives[0].text, best.log_prob, len(best.tokens), alternatives, words)
