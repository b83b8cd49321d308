"""Greedy and beam search. They know a decoder only through start and step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.decoders.shared.contract import Decoder, State, pick_rows
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding.generation import Hypothesis, generate, log_probs_of
from pipeline.features.features import Features


@torch.inference_mode()
def greedy(decoder: Decoder, f: Features, special: Special, max_tokens: int) -> list[Hypothesis]:
    """Choose the likeliest word at each step, for all images at once."""
    rows = torch.arange(len(f), device=f.pooled.device)
    return generate(decoder, decoder.start(f), rows, special, max_tokens, _likeliest)


def _likeliest(log_probs: Tensor, rows: Tensor, step: int) -> Tensor:
    return log_probs.max(-1).indices


@dataclass
class _Beams:
    """State of a beam search for the images that are still searched.

    A images with K beams each (one before the first word); beam k of image a has row a * K + k.
    """

    images: list[int]
    words: Tensor  # (A, K, t)
    scores: Tensor  # (A, K) summed log-probabilities
    finished: list[list[Hypothesis]] = field(default_factory=list)


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    f: Features,
    special: Special,
    beam: int,
    max_tokens: int,
    length_penalty: float,
) -> list[list[Hypothesis]]:
    """Return the finished hypotheses of each image, from a batched beam search.

    They are sorted by log_prob / length ** length_penalty, best first. An image is done when `beam`
    hypotheses have ended. If fewer have ended, hypotheses cut at `max_tokens` fill up the rest.
    """
    device = f.pooled.device
    state = decoder.start(f)
    words, scores = (
        torch.full((len(f), 1, 1), special.start, device=device),
        torch.zeros(len(f), 1, device=device),
    )
    b = _Beams(list(range(len(f))), words, scores, [[] for _ in range(len(f))])
    of_image = set(
        state
    )  # unchanged tensors are equal for all beams of an image, and need not follow them
    for _ in range(max_tokens):
        logits, after = decoder.step(b.words[:, :, -1].flatten(), state)
        of_image = {k for k in of_image if after.get(k) is state[k]}
        count, width = b.scores.shape
        rows = _extend(b, log_probs_of(logits, special).view(count, width, -1), special.end, beam)
        rows = _drop_done(b, rows, beam)
        if not b.images:
            break
        state = _follow(
            after,
            rows,
            of_image if len(b.images) == count and width == beam else set(),
            decoder.shared,
            width,
        )
    _take_unfinished(b, beam)
    return [sorted(h, key=lambda x: -ranking_score(x, length_penalty)) for h in b.finished]


def _follow(
    after: State, rows: Tensor, unmoved: set[str], shared: tuple[str, ...], width: int
) -> State:
    """Return the state of the beams that go on.

    `rows` (A, K) are their rows in the old state, which had `width` rows per image.
    """
    moving = {k: v for k, v in after.items() if k not in unmoved and k not in shared}
    out = after | pick_rows(moving, rows.flatten())
    left = rows[:, 0] // width
    return out | {k: after[k].index_select(0, left) for k in shared if len(left) < len(after[k])}


def _extend(b: _Beams, log_probs: Tensor, end: int, beam: int) -> Tensor:
    """Extend every beam by one word.

    Ended candidates among the best K go to `finished`; the best K others live on.

    Args:
        log_probs: (A, K, V), overwritten; K is 1 before the first word, `beam` after it.

    Returns:
        (A, K), the row of the old state that each living beam continues.
    """
    count, width, vocabulary = log_probs.shape
    best, place = top(
        log_probs.add_(b.scores[..., None]).flatten(1), min(2 * beam, width * vocabulary)
    )  # (A, 2K)
    missing = max(0, beam - best.shape[1])  # if the vocabulary is smaller than the beam
    best, place = F.pad(best, (0, missing), value=-torch.inf), F.pad(place, (0, missing))
    source, word = place // vocabulary, place % vocabulary
    ends = word == end
    for a, rank in (ends[:, :beam] & best[:, :beam].isfinite()).nonzero().tolist():
        tokens = (*b.words[a, source[a, rank], 1:].tolist(), end)
        b.finished[b.images[a]].append(Hypothesis(tokens, best[a, rank].item()))
    living = (
        best.masked_fill(ends, -torch.inf).topk(beam, dim=1).indices
    )  # (A, K); every old beam ends at most once
    b.scores = best.gather(1, living).masked_fill(ends.gather(1, living), -torch.inf)
    source = source.gather(1, living)
    old = b.words.gather(1, source[..., None].expand(-1, -1, b.words.shape[2]))
    b.words = torch.cat([old, word.gather(1, living)[..., None]], 2)
    return source + torch.arange(count, device=source.device)[:, None] * width


def top(values: Tensor, count: int, size: int = 128) -> tuple[Tensor, Tensor]:
    """Return the largest values of each row (A, N) and their indices, (A, count) each, best first.

    On a CPU, topk takes three times as long as this method. It finds the largest of every `size`
    neighbours, and then the largest values in the best groups.
    """
    whole = values.shape[1] // size * size
    if values.is_cuda or whole < count * size:
        return values.topk(count)
    groups = values[:, :whole].unflatten(1, (-1, size)).amax(-1).topk(count).indices
    place = (groups[..., None] * size + torch.arange(size, device=values.device)).flatten(1)
    rest = torch.arange(whole, values.shape[1], device=values.device).expand(len(values), -1)
    place = torch.cat([place, rest], 1)
    best, chosen = values.gather(1, place).topk(count)
    return best, place.gather(1, chosen)


def _drop_done(b: _Beams, rows: Tensor, beam: int) -> Tensor:
    """Drop the images that have `beam` finished hypotheses, or no living beam."""
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


def ranking_score(h: Hypothesis, length_penalty: float) -> float:
    length: float = max(1, len(h.tokens)) ** length_penalty
    return h.log_prob / length
