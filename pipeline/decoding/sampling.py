"""Captions drawn word by word."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from pipeline.decoders.shared.contract import Decoder, pick_rows
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding.generation import Hypothesis, generate
from pipeline.features.features import Features, parts


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
    """Draw `count` captions per image, word by word.

    `log_prob` is the model's own, whatever the temperature. The words drawn for an image depend
    only on `seed` and its features, not on its batch. The first of five captions is the same as a
    single one.
    """
    images = torch.arange(len(f), device=f.pooled.device).repeat_interleave(count)
    rows = torch.arange(len(images), device=images.device)
    chances = torch.from_numpy(
        np.concatenate(_chances(decoder.reads, f, count, max_tokens, seed))
    ).to(rows.device)  # (R, max_tokens)

    def choose(log_probs: Tensor, rows: Tensor, step: int) -> Tensor:
        return draw_by(chances[rows, step], log_probs / temperature, top_k)

    state = pick_rows(decoder.start(f), images)
    found = generate(decoder, state, rows, special, max_tokens, choose)
    return [found[start : start + count] for start in range(0, len(found), count)]


def _chances(reads: str, f: Features, count: int, max_tokens: int, seed: int) -> list[np.ndarray]:
    """Return numbers in [0, 1) for each image (count, max_tokens), from its own generator.

    The generator depends on `seed` and on the image's stored features. Only the features that the
    decoder reads are used, because the others may not be kept.
    """
    out = []
    for read in zip(*(getattr(f, part).half().cpu().numpy() for part in parts(reads)), strict=True):
        key = hashlib.sha256(b"%d " % seed + b"".join(x.tobytes() for x in read)).digest()
        out.append(np.random.default_rng(list(key)).random((count, max_tokens)))
    return out


def draw_by(chances: Tensor, scores: Tensor, top_k: int) -> Tensor:
    """Return the words (B,) at which the cumulative probability passes `chances` (B,).

    The scores (B, V) are unnormalised log-probabilities.
    """
    ids = scores.topk(top_k).indices if 0 < top_k < scores.shape[1] else None
    kept = scores if ids is None else scores.gather(1, ids)
    cumulative = kept.double().softmax(-1).cumsum(-1)
    place = (cumulative[:, :-1] <= chances[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
    return (place if ids is None else ids.gather(1, place))[:, 0]
