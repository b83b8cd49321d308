"""Captions word by word: which tokens may be generated, and the loop shared by greedy search and
sampling.

R rows, one caption each, A of them without an end so far; V words.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.decoders.shared.contract import Decoder, State, pick_rows
from pipeline.decoders.shared.tokenizers import Special


@dataclass(frozen=True)
class Hypothesis:
    tokens: tuple[int, ...]
    "Token ids after <start>, with <end> unless cut at max_tokens."
    log_prob: float
    "Natural logarithm of the probability of all `tokens`."


def barred(special: Special, vocabulary: int) -> list[int]:
    """Return the tokens that are never generated. A language model's vocabulary ends before some of
    them."""
    return [i for i in (special.pad, special.start, special.unknown) if i < vocabulary]


def log_probs_of(logits: Tensor, special: Special) -> Tensor:
    """Logits (B, V) -> log-probabilities of the model.

    Barred tokens are ruled out after the softmax, so the others do not sum to 1.
    """
    log_probs = logits.float().log_softmax(-1)
    log_probs[:, barred(special, logits.shape[1])] = -torch.inf
    return log_probs


def draw(logits: Tensor, special: Special, may_end: bool = True) -> Tensor:
    """Draw one word (B,) from the distribution of each row of logits (B, V), with torch's random
    numbers.

    Barred tokens are ruled out before the softmax.
    """
    ruled_out = barred(special, logits.shape[1])
    if not may_end:
        ruled_out.append(special.end)
    index = torch.tensor(ruled_out, device=logits.device, dtype=torch.long)
    return torch.multinomial(logits.float().index_fill(1, index, -torch.inf).softmax(-1), 1)[:, 0]


# (log-probabilities (A, V), their rows (A,), number of words before) -> the next words (A,).
Choose = Callable[[Tensor, Tensor, int], Tensor]


def generate(
    decoder: Decoder, state: State, rows: Tensor, special: Special, max_tokens: int, choose: Choose
) -> list[Hypothesis]:
    """Generate a caption for each row of the state, up to <end> or `max_tokens`.

    A row that has ended is dropped from the state.

    Args:
        rows: (R,) 0, 1, 2 ..., on the state's device.
    """
    words: list[list[int]] = [[] for _ in rows]
    totals = torch.zeros(len(rows), device=rows.device)
    alive, tokens = rows, torch.full_like(rows, special.start)
    for step in range(max_tokens):
        logits, state = decoder.step(tokens, state)
        log_probs = log_probs_of(logits, special)
        tokens = choose(log_probs, alive, step)
        totals[alive] += log_probs.gather(1, tokens[:, None])[:, 0]
        for row, word in zip(alive.tolist(), tokens.tolist(), strict=True):
            words[row].append(word)
        going = (tokens != special.end).nonzero().squeeze(1)
        if not len(going):
            break
        if len(going) < len(alive):
            alive, tokens, state = alive[going], tokens[going], pick_rows(state, going)
    return [Hypothesis(tuple(w), p) for w, p in zip(words, totals.tolist(), strict=True)]
