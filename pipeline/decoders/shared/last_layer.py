"""The product with the vocabulary and its cross-entropy, without all logits at once.

N rows, one for each token of a batch; E their width; V words. Logits are (N, V), and so are their
softmax and their gradient. For 8,000 tokens and 9,000 words, each takes 288 MB. The gradient of the
cross-entropy is known as soon as the logits are:

    d loss / d logits = softmax(logits) - target

The forward pass therefore handles some rows at a time, and adds up what backward will return. The
logits are computed once, as in the plain method.

torch's own `linear_cross_entropy` does the same. But it has no label smoothing, and gives a
bfloat16 loss for bfloat16 rows (2.15).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Largest number of logits that are held at once (16 MB).
LARGE = 2**22


@dataclass(frozen=True)
class LastLayer:
    """A product that is not carried out yet: logits = rows @ weight.T + bias.

    Without a weight, the rows are the logits.
    """

    rows: Tensor  # (N, E)
    weight: Tensor | None = None  # (V, E)
    bias: Tensor | None = None  # (V,)

    def logits(self) -> Tensor:
        """(N, V)"""
        return self.rows if self.weight is None else F.linear(self.rows, self.weight, self.bias)

    @property
    def words(self) -> int:
        """Return V."""
        return self.rows.shape[-1] if self.weight is None else len(self.weight)

    @property
    def at_once(self) -> int:
        """Return the number of rows whose logits are held at once."""
        fits = len(self.rows) * self.words <= LARGE
        return len(self.rows) if fits else max(1, LARGE // self.words)

    def parts(self) -> Iterator["LastLayer"]:
        """Yield the layer in parts, each with the rows whose logits are held at once."""
        if self.at_once >= len(self.rows):
            yield self
            return
        for rows in self.rows.split(self.at_once):
            yield LastLayer(rows, self.weight, self.bias)

    def cross_entropy(
        self,
        targets: Tensor,
        smoothing: float = 0.0,
        weights: Tensor | None = None,
        barred: Sequence[int] = (),
    ) -> Tensor:
        """Return the mean over the targets (N,), in nats and float32.

        With `weights` (N,), it is the mean of the weighted values.

        Args:
            barred: words without probability, the others' sum to 1. None of them is a target, and
                their logits get no gradient. Not for use with smoothing.
        """
        if barred and smoothing:
            raise ValueError("barred words have no probability to smooth")
        if self.weight is None or self.at_once >= len(self.rows):
            logits = self.logits().float()
            if barred:
                index = torch.tensor(barred, device=logits.device)
                logits = logits.index_fill(1, index, -torch.inf)
            if weights is None:
                return F.cross_entropy(logits, targets, label_smoothing=smoothing)
            if not smoothing:
                return (weights * -_log_probs(logits, targets)).mean()
            each = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
            return (weights * each).mean()
        return self._in_parts(targets, smoothing, weights, barred)[0]

    def cross_entropy_and_log_probs(
        self, targets: Tensor, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return both, of the same logits: the mean over the targets (N,), and the
        log-probabilities (N,) without gradients."""
        if self.weight is None or self.at_once >= len(self.rows):
            layer = LastLayer(self.logits())
            return layer.cross_entropy(targets, smoothing), layer.log_probs(targets)
        return self._in_parts(targets, smoothing, None, ())

    def _in_parts(
        self,
        targets: Tensor,
        smoothing: float,
        weights: Tensor | None,
        barred: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        device = self.rows.device.type
        kind = self.rows.dtype
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        shares = torch.ones_like(targets) if weights is None else weights
        shares = shares.to(torch.promote_types(kind, torch.float32)) / len(targets)
        loss, log_probs = _CrossEntropy.apply(
            *(self.rows, self.weight, self.bias),
            *(targets, shares, smoothing, list(barred), kind, self.at_once),
        )
        return loss, log_probs

    @torch.no_grad()
    def log_probs(self, targets: Tensor) -> Tensor:
        """Return the log-probabilities of the targets (N,), without gradients."""
        places = targets.split(self.at_once)
        found = zip(self.parts(), places, strict=True)
        return torch.cat([_log_probs(part.logits().float(), place) for part, place in found])


def _log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


class _CrossEntropy(torch.autograd.Function):
    """The sum over rows of share * ((1 - smoothing) * CE(target) + smoothing * mean over words of
    CE), and the log-probabilities of the targets, which have no gradient.

    The gradients of the sum are computed in the forward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        shares: Tensor,
        smoothing: float,
        barred: list[int],
        kind: torch.dtype,
        at_once: int,
    ) -> tuple[Tensor, Tensor]:
        """`kind` is the dtype of the products. Sums have the dtype of `shares`."""
        d_rows, d_weight = torch.empty_like(rows), torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        matrix, losses, log_probs = weight.to(kind), [], []
        with torch.autocast(rows.device.type, enabled=False):
            for start in range(0, len(rows), at_once):
                part = slice(start, start + at_once)
                x, target, share = rows[part].to(kind), targets[part, None], shares[part, None]
                logits = F.linear(x, matrix, None if bias is None else bias.to(kind))
                logits = logits.to(shares.dtype)
                logits[:, barred] = -torch.inf
                total = logits.logsumexp(1, keepdim=True)
                right = logits.gather(1, target)
                log_probs.append((right - total)[:, 0])
                right = (1 - smoothing) * right
                if smoothing:
                    right += smoothing * logits.mean(1, keepdim=True)
                losses.append(share * (total - right))
                d = logits.sub_(total).exp_().sub_(smoothing / logits.shape[1])
                d = d.scatter_add_(1, target, torch.full_like(total, smoothing - 1)).mul_(share)
                if d_bias is not None:
                    d_bias += d.sum(0)
                d = d.to(kind)
                d_rows[part] = d @ matrix
                d_weight += d.T @ x
        ctx.save_for_backward(d_rows, d_weight, d_bias)
        found = torch.cat(log_probs)
        ctx.mark_non_differentiable(found)
        return torch.cat(losses).sum(), found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_rows, d_weight, d_bias = ctx.saved_tensors
        d_bias = None if d_bias is None else d_loss * d_bias
        return d_loss * d_rows, d_loss * d_weight, d_bias, *[None] * 6
