"""One weight gradient for all steps of an unrolled decoder, instead of one per step.

An LSTM unrolled over T steps uses each weight T times. Autograd computes a gradient as large as the
weight at each step and adds the T of them up: for a weight of 1024 x 2048 that is 8 MB written and
read T times. The gradient of a sum of products is a product of concatenated factors, so it can be
computed once:

    dW = sum over t of  g_t.T @ x_t  =  concat(g_1 ... g_T).T @ concat(x_1 ... x_T)

where x_t (n_t, E) is what step t multiplied and g_t (n_t, H) the gradient of what came out.

How autograd is made to wait: within `deferred_gradients()`, the first product of a weight makes a
node from it, `_WeightGradient`, whose output is a zero that every product takes as an input.

    weight --> _WeightGradient --> zero --+--> _Product of step 1
                                          +--> ...
                                          +--> _Product of step T

Backward of `_Product` returns the gradient of x_t as usual, but only stores (x_t, g_t). Autograd
runs the backward of a node after those of all nodes that used its output: that of `_WeightGradient`
comes after all products, and returns dW from what they have stored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Factors = list[tuple[Tensor, Tensor]]
"(x_t, g_t) of the products of one weight."


class _Weight(NamedTuple):
    """A weight in use within `deferred_gradients`."""

    zero: Tensor
    "Output of the weight's node."
    weight: Tensor
    "Without gradient: that goes through `zero`. In the dtype of autocast, where it is on."
    bias: Tensor | None
    factors: Factors


_IN_USE: ContextVar[dict[Any, _Weight] | None] = ContextVar("in_use", default=None)
"By address and shape of the weight; None outside of `deferred_gradients`."


@contextmanager
def deferred_gradients() -> Iterator[None]:
    """Defers the gradients of the weights that `linear` multiplies with to the end of backward."""
    token = _IN_USE.set({})
    try:
        yield
    finally:
        _IN_USE.reset(token)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear of x (n, E); within `deferred_gradients` the gradients of weight (H, E) and bias are
    computed once for all calls."""
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
