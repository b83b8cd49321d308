"""Captions drawn word by word."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from pipeline.decoders.shared.contract import Decoder, pick_rows
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding.search import Hypothesis, log_probs_of
from pipeline.features.features import Features


@torch.inference_mode()
def sample(
    decoder: Decoder,
    f: Features,
    special: Special,
    count: int,
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
) -> list[list[Hypothesis]]:
    """`count` captions drawn per image, word by word; `log_prob` is the model's own, whatever the
    temperature.

    What is drawn for an image depends on `seed` and its features alone, not on its batch; the first
    of five is the only of one.
    """
    device = f.pooled.device
    rows = torch.arange(len(f), device=device).repeat_interleave(count)
    state = pick_rows(decoder.start(f), rows)
    chances = torch.from_numpy(np.concatenate(_chances(f, count, max_tokens, seed))).to(
        device
    )  # (B * count, max_tokens)
    alive = torch.arange(len(rows), device=device)
    tokens = torch.full_like(alive, special.start)
    words: list[list[int]] = [[] for _ in rows]
    totals = torch.zeros(len(rows), device=device)
    for t in range(max_tokens):
        logits, state = decoder.step(tokens, state)
        log_probs = log_probs_of(logits, special)
        tokens = _draw(log_probs / temperature, chances[alive, t], top_k)
        totals[alive] += log_probs.gather(1, tokens[:, None])[:, 0]
        for row, word in zip(alive.tolist(), tokens.tolist(), strict=True):
            words[row].append(word)
        going = (tokens != special.end).nonzero().squeeze(1)
        if not len(going):
            break
        if len(going) < len(alive):
            alive, tokens, state = alive[going], tokens[going], pick_rows(state, going)
    found = [Hypothesis(tuple(w), p) for w, p in zip(words, totals.tolist(), strict=True)]
    return [found[start : start + count] for start in range(0, len(found), count)]


def _chances(f: Features, count: int, max_tokens: int, seed: int) -> list[np.ndarray]:
    """Numbers of [0, 1) for each image (count, max_tokens), from a generator of its own: `seed` and
    its stored features."""
    out = []
    for grid, pooled in zip(
        f.grid.half().cpu().numpy(), f.pooled.half().cpu().numpy(), strict=True
    ):
        key = hashlib.sha256(b"%d " % seed + grid.tobytes() + pooled.tobytes()).digest()
        out.append(np.random.default_rng(list(key)).random((count, max_tokens)))
    return out


def _draw(scores: Tensor, chances: Tensor, top_k: int) -> Tensor:
    """Unnormalised log-probabilities (B, V), chances (B,) -> the words (B,) where cumulative
    probabilities pass the chances."""
    ids = scores.topk(top_k).indices if 0 < top_k < scores.shape[1] else None
    kept = scores if ids is None else scores.gather(1, ids)
    cumulative = kept.double().softmax(-1).cumsum(-1)
    place = (cumulative[:, :-1] <= chances[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
    return (place if ids is None else ids.gather(1, place))[:, 0]
