"""One weight gradient for all steps of an unrolled decoder, instead of one per step.

An LSTM unrolled over T steps uses each weight T times. At each step, autograd computes a gradient
as large as the weight, and it adds up all T. For a weight of 1024 x 2048, that is 8 MB written and
read T times. The gradient of a sum of products is a product of concatenated factors, so it can be
computed once:

    dW = sum over t of  g_t.T @ x_t  =  concat(g_1 ... g_T).T @ concat(x_1 ... x_T)

Here x_t (n_t, E) is the input of the product at step t, and g_t (n_t, H) is the gradient of its
output.

This is how autograd is made to wait. Within `deferred_gradients()`, the first product of a weight
creates a node from it, `_WeightGradient`. The output of the node is a zero that every product takes
as an input.

    weight --> _WeightGradient --> zero --+--> _Product of step 1
                                          +--> ...
                                          +--> _Product of step T

The backward pass of `_Product` returns the gradient of x_t as usual, but for the weight it only
stores (x_t, g_t). Autograd runs the backward pass of a node after those of all nodes that used its
output. That of `_WeightGradient` therefore comes after all products, and computes dW from what they
stored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# The pairs (x_t, g_t) of the products of one weight.
Factors = list[tuple[Tensor, Tensor]]


class _Weight(NamedTuple):
    """A weight in use within `deferred_gradients`."""

    zero: Tensor
    "Output of the weight's node `_WeightGradient`."
    weight: Tensor
    """The weight without gradient, which flows through `zero` instead. Under autocast, it has its
    dtype."""
    bias: Tensor | None
    factors: Factors


# The weights in use, by address and shape; None outside of `deferred_gradients`.
_IN_USE: ContextVar[dict[Any, _Weight] | None] = ContextVar("in_use", default=None)


@contextmanager
def deferred_gradients() -> Iterator[None]:
    """Defer the gradients of the weights that `linear` multiplies with to the end of backward."""
    token = _IN_USE.set({})
    try:
        yield
    finally:
        _IN_USE.reset(token)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return F.linear of x (n, E).

    Within `deferred_gradients`, the gradients of weight (H, E) and bias are computed once for all
    calls.
    """
    in_use = _IN_USE.get()
    if in_use is None or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.linear(x, weight, bias)
    key = (weight.data_ptr(), weight.shape)
    if key not in in_use:
        in_use[key] = _first_use(weight, bias, x.device.type)
    known = in_use[key]
    return _Product.apply(x.to(known.weight.dtype), *known)


def _first_use(weight: Tensor, bias: Tensor | None, device: str) -> _Weight:
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
    factors: Factors = []
    zero = _WeightGradient.apply(weight, bias, factors)
    return _Weight(zero, weight.detach(), None if bias is None else bias.detach(), factors)


class _WeightGradient(torch.autograd.Function):
    """The node whose backward runs after those of all products of a weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, factors: Factors) -> Tensor:
        ctx.factors, ctx.has_bias = factors, bias is not None
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        inputs, gradients = (torch.cat(parts) for parts in zip(*ctx.factors, strict=True))
        ctx.factors.clear()
        return gradients.T @ inputs, gradients.sum(0) if ctx.has_bias else None, None


class _Product(torch.autograd.Function):
    """F.linear whose backward leaves the weight's gradient to `_WeightGradient`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, zero: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.factors = factors
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.factors.append((x, gradient))
        return gradient @ weight, weight.new_zeros(()), None, None, None
