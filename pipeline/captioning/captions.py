"""Features -> captions, as the keys of `decode` in params.yaml say: a search, or samples of which
the best is kept."""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.generation import Hypothesis
from pipeline.decoding.sampling import sample
from pipeline.decoding.search import beam_search, ranking_score
from pipeline.features.features import Features

ROWS = 64
"captions drawn at once: the keys and values of a language model take megabytes for each"


@dataclass(frozen=True)
class Caption:
    text: str
    log_prob: float
    "natural logarithm, of the whole caption with its end token"
    tokens: int
    "end token counted"
    alternatives: list[tuple[str, float]]
    "the best hypotheses with their log-probabilities, the caption itself first"
    words: str = ""
    "the text with a space between any two words, also where its script has none: for `explain`"


def caption_features(
    decoder: Decoder, tokenizer: Tokenizer, f: Features, decoding: dict[str, Any]
) -> list[Caption]:
    """Sampling or beam search (beam 1 is greedy), with the keys of params.yaml's `decode`."""
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
        found = beam_search(decoder, f, tokenizer.special, decoding["beam"], longest, penalty)
    return [_caption(hypotheses, tokenizer, decoding["alternatives"]) for hypotheses in found]


def _best_samples(
    decoder: Decoder, tokenizer: Tokenizer, f: Features, decoding: dict[str, Any]
) -> list[list[Hypothesis]]:
    """Each image's different samples, best first: as the decoder judges their texts, else by their
    log-probability."""
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
    return [[h for _, h in sorted(pairs, key=lambda pair: -pair[0])] for pairs in scored]


def _caption(hypotheses: list[Hypothesis], tokenizer: Tokenizer, count: int) -> Caption:
    texts = [(tokenizer.decode(h.tokens), h.log_prob) for h in hypotheses[:count]]
    best = hypotheses[0]
    words = tokenizer.parted(best.tokens)
    return Caption(texts[0][0], best.log_prob, len(best.tokens), texts, words)
