"""Teacher-forced figures: how probable the references are, and how often the right word is among
the first five."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoding.batches import Batch, CaptionBatches


@dataclass(frozen=True)
class Likelihood:
    """Sums over one image's references; end tokens count, <start> and padding do not."""

    image_id: str
    reference_nll: float
    reference_tokens: int
    top5_hits: int
    references: list[list[int]] = field(default_factory=list)
    "Token ids of each reference with its end token, if requested."
    argmax: list[list[int]] = field(default_factory=list)
    """For each reference, the likeliest token at every place, given the reference's tokens before
    it."""


def likelihoods(decoder: Decoder, batches: CaptionBatches) -> Iterator[Likelihood]:
    """Yield the figures of every image of a split, ordered by image_id."""
    for batch in batches.in_order():
        yield from batch_likelihoods(decoder, batch)


@torch.inference_mode()
def batch_likelihoods(decoder: Decoder, batch: Batch, ids: bool = False) -> list[Likelihood]:
    """Return the figures of a batch's images, without dropout, label smoothing or regularisers.

    Args:
        ids: also return the references' token ids and the argmax under teacher forcing.
    """
    decoder.eval()
    valid = batch.mask[:, 1:]
    hidden, _ = decoder.unroll(batch.features, batch.tokens[:, :-1], valid.sum(1).cpu(), batch.rows)
    targets = batch.tokens[:, 1:][valid]
    nll, hits, likeliest = _judged(decoder.last_layer(hidden[valid]), targets)
    image = batch.rows[:, None].expand_as(valid)[valid]
    nlls, tokens, hit_counts = (
        torch.zeros(len(batch.image_ids), device=nll.device, dtype=torch.float64).index_add_(
            0, image, values.double()
        )
        for values in (nll, torch.ones_like(nll), hits)
    )
    columns = zip(batch.image_ids, nlls.tolist(), tokens.tolist(), hit_counts.tolist(), strict=True)
    found = [Likelihood(i, n, int(t), int(h)) for i, n, t, h in columns]
    if ids:
        lengths = valid.sum(1).tolist()
        pairs = zip(targets.split(lengths), likeliest.split(lengths), strict=True)
        for image_row, (reference, argmax) in zip(batch.rows.tolist(), pairs, strict=True):
            found[image_row].references.append(reference.tolist())
            found[image_row].argmax.append(argmax.tolist())
    return found


def _judged(layer: LastLayer, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three tensors for the targets (N,).

    They are the negative log-probability, whether the target is among the first five, and the
    likeliest token in its place.
    """
    found = []
    for part, target in zip(layer.parts(), targets.split(layer.at_once), strict=True):
        log_probs = part.logits().float().log_softmax(-1)  # (N, V)
        first = log_probs.topk(min(5, log_probs.shape[1])).indices
        nll = -log_probs.gather(1, target[:, None])[:, 0]
        found.append((nll, (first == target[:, None]).any(1), log_probs.argmax(-1)))
    nll, hits, likeliest = (torch.cat(parts) for parts in zip(*found, strict=True))
    return nll, hits, likeliest


def mean_loss(
    decoder: Decoder,
    batches: CaptionBatches,
    gather: Callable[[list[Likelihood]], list[list[Likelihood]]] = lambda rows: [rows],
) -> float:
    """Return the cross-entropy per token (nats) over a split.

    Args:
        gather: collects what several processes have found, each in its share of `batches`.
    """
    rows = [row for found in gather(list(likelihoods(decoder, batches))) for row in found]
    return sum(r.reference_nll for r in rows) / sum(r.reference_tokens for r in rows)
