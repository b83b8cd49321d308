"""Greedy and beam search. They know a decoder only through start and step."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.decoders.base import Decoder, pick_rows
from pipeline.encoders.base import Features
from pipeline.tokenizers import Special, Tokenizer


@dataclass(frozen=True)
class Hypothesis:
    tokens: tuple[int, ...]
    "after <start>, with <end> unless cut at max_tokens"
    log_prob: float
    "natural logarithm, of all `tokens`"


def _log_probs(logits: Tensor, special: Special) -> Tensor:
    """(B, V) -> log-probabilities of the model; what is never generated is ruled out after the softmax."""
    log_probs = logits.float().log_softmax(-1)
    barred = [i for i in (special.pad, special.start, special.unknown) if i < logits.shape[1]]
    log_probs[:, barred] = -torch.inf
    return log_probs


@torch.inference_mode()
def greedy(decoder: Decoder, f: Features, special: Special, max_tokens: int) -> list[Hypothesis]:
    """The likeliest word at each step, for all images at once; finished images are dropped."""
    state = decoder.start(f)
    alive = torch.arange(len(f), device=f.pooled.device)
    tokens = torch.full_like(alive, special.start)
    words: list[list[int]] = [[] for _ in range(len(f))]
    totals = torch.zeros(len(f), device=alive.device)
    for _ in range(max_tokens):
        logits, state = decoder.step(tokens, state)
        best, tokens = _log_probs(logits, special).max(-1)
        totals[alive] += best
        for image, word in zip(alive.tolist(), tokens.tolist(), strict=True):
            words[image].append(word)
        going = (tokens != special.end).nonzero().squeeze(1)
        if not len(going):
            break
        alive, tokens, state = alive[going], tokens[going], pick_rows(state, going)
    return [Hypothesis(tuple(w), p) for w, p in zip(words, totals.tolist(), strict=True)]


@dataclass
class _Beams:
    """Beam search state of the images still searched: A images, K beams each, row a * K + k."""

    images: list[int]
    words: Tensor  # (A, K, t)
    scores: Tensor  # (A, K) summed log-probabilities
    finished: list[list[Hypothesis]] = field(default_factory=list)


@torch.inference_mode()
def beam_search(
    decoder: Decoder, f: Features, special: Special, beam: int, max_tokens: int, length_penalty: float
) -> list[list[Hypothesis]]:
    """Batched beam search; per image its finished hypotheses, best first by log_prob / length ** length_penalty.

    An image is done when `beam` hypotheses have ended; those cut at `max_tokens` fill up only what is missing.
    """
    device = f.pooled.device
    state = pick_rows(decoder.start(f), torch.arange(len(f), device=device).repeat_interleave(beam))
    scores = torch.full((len(f), beam), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all beams are equal at first: only one may branch
    words = torch.full((len(f), beam, 1), special.start, device=device)
    b = _Beams(list(range(len(f))), words, scores, [[] for _ in range(len(f))])
    for _ in range(max_tokens):
        logits, state = decoder.step(b.words[:, :, -1].flatten(), state)
        rows = _extend(b, _log_probs(logits, special).view(len(b.images), beam, -1), special.end)
        rows = _drop_done(b, rows, beam)
        if not b.images:
            break
        state = pick_rows(state, rows.flatten())
    _take_unfinished(b, beam)
    return [sorted(h, key=lambda x: -x.log_prob / max(1, len(x.tokens)) ** length_penalty) for h in b.finished]


def _extend(b: _Beams, log_probs: Tensor, end: int) -> Tensor:
    """One word more for every beam: ended candidates among the best K go to `finished`, the best K others live on.

    Returns:
        (A, K) the row of the old state that each living beam continues.
    """
    count, beam, vocabulary = log_probs.shape
    best, place = (b.scores[..., None] + log_probs).flatten(1).topk(min(2 * beam, beam * vocabulary), dim=1)  # (A, 2K)
    source, word = place // vocabulary, place % vocabulary
    ends = word == end
    for a, rank in (ends[:, :beam] & best[:, :beam].isfinite()).nonzero().tolist():
        tokens = (*b.words[a, source[a, rank], 1:].tolist(), end)
        b.finished[b.images[a]].append(Hypothesis(tokens, best[a, rank].item()))
    living = best.masked_fill(ends, -torch.inf).topk(beam, dim=1).indices  # (A, K); every old beam ends at most once
    b.scores = best.gather(1, living).masked_fill(ends.gather(1, living), -torch.inf)
    source = source.gather(1, living)
    old = b.words.gather(1, source[..., None].expand(-1, -1, b.words.shape[2]))
    b.words = torch.cat([old, word.gather(1, living)[..., None]], 2)
    return source + torch.arange(count, device=source.device)[:, None] * beam


def _drop_done(b: _Beams, rows: Tensor, beam: int) -> Tensor:
    """Leave out the images that have `beam` finished hypotheses, or no living beam."""
    dead = b.scores.isinf().all(1).tolist()
    keep = [a for a, image in enumerate(b.images) if len(b.finished[image]) < beam and not dead[a]]
    if len(keep) < len(b.images):
        index = torch.tensor(keep, device=rows.device, dtype=torch.long)
        b.images = [b.images[a] for a in keep]
        b.words, b.scores, rows = b.words[index], b.scores[index], rows[index]
    return rows


def _take_unfinished(b: _Beams, beam: int) -> None:
    for a, image in enumerate(b.images):
        for tokens, score in zip(b.words[a, :, 1:].tolist(), b.scores[a].tolist(), strict=True):
            if len(b.finished[image]) < beam and score > float("-inf"):
                b.finished[image].append(Hypothesis(tuple(tokens), score))


@dataclass(frozen=True)
class Caption:
    text: str
    log_prob: float
    "natural logarithm, of the whole caption with its end token"
    tokens: int
    "end token counted"
    alternatives: list[tuple[str, float]]
    "the best hypotheses with their log-probabilities, the caption itself first"


def caption_features(decoder: Decoder, tokenizer: Tokenizer, f: Features, decoding: dict[str, Any]) -> list[Caption]:
    """Beam search with the keys of params.yaml's `decode` (beam 1 is greedy)."""
    found = beam_search(decoder, f, tokenizer.special, decoding["beam"], decoding["max_tokens"], decoding["length_penalty"])
    return [_caption(hypotheses, tokenizer, decoding["alternatives"]) for hypotheses in found]


def _caption(hypotheses: list[Hypothesis], tokenizer: Tokenizer, count: int) -> Caption:
    texts = [(tokenizer.decode(h.tokens), h.log_prob) for h in hypotheses[:count]]
    return Caption(texts[0][0], hypotheses[0].log_prob, len(hypotheses[0].tokens), texts)
