"""Beam search and sampling in numpy, as in captionlab, for caption.py of an exported folder.

Shapes: A images, K beams per image (one before the first word), R = A * K rows, V words.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
State = dict[str, Array]
# Words (R,) and the state -> log-probabilities (R, V) and the changed part of the state.
Step = Callable[[Array, State], tuple[Array, State]]


@dataclass(frozen=True)
class Hypothesis:
    tokens: tuple[int, ...]
    "The tokens after the start token, including the end token unless cut at max_tokens."
    log_prob: float
    "Natural logarithm of the probability of all `tokens`."


def ranked(hypotheses: list[Hypothesis], length_penalty: float) -> list[Hypothesis]:
    """Return the hypotheses, best first by log_prob / length ** length_penalty."""
    return sorted(
        hypotheses, key=lambda h: -h.log_prob / float(max(1, len(h.tokens)) ** length_penalty)
    )


def beam_search(
    step: Step,
    state: State,
    count: int,
    start: int,
    end: int,
    beam: int,
    max_tokens: int,
    length_penalty: float,
) -> list[list[Hypothesis]]:
    """Return the finished hypotheses of each image, best first; beam 1 is greedy.

    An image is done when `beam` hypotheses have ended. If fewer have ended, hypotheses cut at
    `max_tokens` fill up the number.

    Args:
        state: the state of `count` images, one row each.
    """
    finished: list[list[Hypothesis]] = [[] for _ in range(count)]
    images = np.arange(count)
    words = np.full((count, 1, 1), start, np.int64)  # (A, K, t)
    scores = np.zeros((count, 1), np.float32)  # (A, K), summed log-probabilities
    for _ in range(max_tokens):
        log_probs, new = step(words[:, :, -1].reshape(-1), state)
        before, width = scores.shape
        place, best = _candidates(log_probs, scores, 2 * beam)  # (A, 2K)
        source, word = np.divmod(place, log_probs.shape[1])
        ends = word == end
        for a, rank in np.argwhere(ends[:, :beam] & np.isfinite(best[:, :beam])):
            tokens = (*words[a, source[a, rank], 1:].tolist(), end)
            finished[images[a]].append(Hypothesis(tokens, float(best[a, rank])))
        scores, words, source = _living(best, ends, words, source, word, beam)
        going = [
            a
            for a, image in enumerate(images)
            if len(finished[image]) < beam and np.isfinite(scores[a]).any()
        ]
        rows = (source + np.arange(before)[:, None] * width)[going].ravel()
        images, words, scores = images[going], words[going], scores[going]
        if not len(images):
            break
        # State that no step changes is equal for all beams of an image: it need not be reordered.
        moving = new if (len(images), beam) == (before, width) else state | new
        state = state | {name: value[rows] for name, value in moving.items()}
    for image, said_so_far, score in zip(images, words, scores, strict=True):
        pairs = zip(said_so_far[:, 1:].tolist(), score.tolist(), strict=True)
        left = [Hypothesis(tuple(said), total) for said, total in pairs]
        missing = beam - len(finished[image])
        finished[image] += [h for h in left if np.isfinite(h.log_prob)][:missing]
    return [ranked(hypotheses, length_penalty) for hypotheses in finished]


def _candidates(log_probs: Array, scores: Array, count: int) -> tuple[Array, Array]:
    """Return the best continuations of each image, best first.

    They are given by their places among its K * V continuations, and their scores. If there are
    fewer than `count`, scores of -inf fill up the number.
    """
    totals = (log_probs.reshape(*scores.shape, -1) + scores[..., None]).reshape(len(scores), -1)
    found = min(count, totals.shape[1])
    place = np.argpartition(-totals, found - 1, axis=1)[:, :found]
    best = np.take_along_axis(totals, place, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    fill = ((0, 0), (0, count - found))
    place = np.pad(np.take_along_axis(place, order, 1), fill)
    return place, np.pad(np.take_along_axis(best, order, 1), fill, constant_values=-np.inf)


def _living(
    best: Array, ends: Array, words: Array, source: Array, word: Array, beam: int
) -> tuple[Array, Array, Array]:
    """Return the `beam` best of the candidates (A, 2K) that have not ended.

    They are given by their scores, their words, and the beam that each continues.
    """
    open_ones = np.where(ends, -np.inf, best)
    chosen = np.argsort(-open_ones, axis=1, kind="stable")[:, :beam]
    scores = np.take_along_axis(open_ones, chosen, 1)
    source = np.take_along_axis(source, chosen, 1)
    old = np.take_along_axis(words, source[..., None], 1)
    return scores, np.concatenate([old, np.take_along_axis(word, chosen, 1)[..., None]], 2), source


def sample(
    step: Step,
    state: State,
    chances: Array,
    start: int,
    end: int,
    temperature: float,
    top_k: int,
    length_penalty: float,
) -> list[list[Hypothesis]]:
    """Draw captions word by word; return the distinct ones of each image, best first.

    `log_prob` is the model's own, whatever the temperature.

    Args:
        chances: random numbers in [0, 1), shape (A, samples, max_tokens).
    """
    count, samples, longest = chances.shape
    state = {name: value.repeat(samples, 0) for name, value in state.items()}
    drawn: list[list[int]] = [[] for _ in range(count * samples)]
    totals = np.zeros(len(drawn), np.float32)
    alive, tokens = np.arange(len(drawn)), np.full(len(drawn), start, np.int64)
    for t in range(longest):
        log_probs, new = step(tokens, state)
        tokens = draw_by(
            chances.reshape(-1, longest)[alive, t], log_probs / np.float32(temperature), top_k
        )
        totals[alive] += np.take_along_axis(log_probs, tokens[:, None], 1)[:, 0]
        for row, token in zip(alive, tokens, strict=True):
            drawn[row].append(int(token))
        going = tokens != end
        if not going.any():
            break
        alive, tokens = alive[going], tokens[going]
        state = {name: value[going] for name, value in (state | new).items()}
    every = [Hypothesis(tuple(t), float(p)) for t, p in zip(drawn, totals, strict=True)]
    of_image = [every[i : i + samples] for i in range(0, len(every), samples)]
    return [ranked(list({h.tokens: h for h in some}.values()), length_penalty) for some in of_image]


def chances_of(read: Sequence[Array], samples: int, max_tokens: int, seed: int) -> Array:
    """Return random numbers in [0, 1), (A, samples, max_tokens).

    The numbers of an image depend on `seed` and on its features alone.

    Args:
        read: the features that the decoder reads: (A, P, D), (A, D') or both, in this order.
    """
    out = []
    for parts in zip(*(part.astype(np.float16) for part in read), strict=True):
        key = hashlib.sha256(b"%d " % seed + b"".join(x.tobytes() for x in parts)).digest()
        out.append(np.random.default_rng(list(key)).random((samples, max_tokens)))
    return np.stack(out)


def draw_by(chances: Array, scores: Array, top_k: int) -> Array:
    """Return the words (R,) where the cumulative probability passes chances (R,).

    Args:
        scores: unnormalised log-probabilities (R, V).
        top_k: draw among this many likeliest words only; 0 takes all.
    """
    ids = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    if 0 < top_k < scores.shape[1]:
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(scores, ids, 1).astype(np.float64)
    cumulative = np.exp(kept - kept.max(1, keepdims=True)).cumsum(1)
    place = (cumulative[:, :-1] <= chances[:, None] * cumulative[:, -1:]).sum(1, keepdims=True)
    words: Array = np.take_along_axis(ids, place, 1)[:, 0]
    return words
