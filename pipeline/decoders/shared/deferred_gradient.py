"""One weight gradient for all steps of an unrolled decoder, instead of one per step.

An LSTM unrolled over T steps uses each weight T times. Autograd computes a gradient as large as the
weight at each step and adds the T of them up: for a weight of 1024 x 2048 that is 8 MB written and
read T times. The gradient of a sum of products is a product of concatenated factors, so it can be
computed once:

    dW = sum over t of  g_t.T @ x_t  =  concat(g_1 ... g_T).T @ concat(x_1 ... x_T)

Inside `one_gradient()`, `linear(x, weight)` therefore does three things. Its forward is F.linear.
Its backward returns the gradient of x at once, but only stores the pair (x_t, g_t). Autograd runs
the backward of a node after those of all nodes that depend on it, so a node that every product
depends on, the "ticket" (a zero), runs last: its backward concatenates the stored pairs and returns
dW.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear of x (n, E) in a step of `unroll`, whose weight then gets its gradient from all
    steps at once."""
    opened = OPENED.get()
    if opened is None or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.linear(x, weight, bias)
    key = (weight.data_ptr(), weight.shape)
    if key not in opened:
        kind = (
            torch.get_autocast_dtype(x.device.type)
            if torch.is_autocast_enabled(x.device.type)
            else weight.dtype
        )
        weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
        pairs: Pairs = []
        opened[key] = (
            _Ticket.apply(weight, bias, pairs),
            weight.detach(),
            None if bias is None else bias.detach(),
            pairs,
        )
    ticket, weight, bias, pairs = opened[key]
    return _Product.apply(x.to(weight.dtype), ticket, weight, bias, pairs)


@contextmanager
def one_gradient() -> Iterator[None]:
    """Within it, `linear` keeps what a weight's gradient is made of until the last of its products
    has been gone back through.

    A product per step would write a gradient as large as the weight each time, to be added to the
    others.
    """
    token = OPENED.set({})
    try:
        yield
    finally:
        OPENED.reset(token)


Pairs = list[tuple[Tensor, Tensor]]
"inputs (n, E) of a weight's products and gradients of what came out (n, H)"
OPENED: ContextVar[dict[Any, tuple[Tensor, Tensor, Tensor | None, Pairs]] | None] = ContextVar(
    "opened", default=None
)
"by weight: its ticket, itself, its bias and the pairs that were kept"


class _Ticket(torch.autograd.Function):
    """A number that all products of a weight depend on, so that its gradient is asked for after all
    of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, pairs: Pairs) -> Tensor:
        ctx.pairs, ctx.has_bias = pairs, bias is not None
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        inputs, gradients = (torch.cat(parts) for parts in zip(*ctx.pairs, strict=True))
        ctx.pairs.clear()
        return gradients.T @ inputs, gradients.sum(0) if ctx.has_bias else None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, ticket: Tensor, weight: Tensor, bias: Tensor | None, pairs: Pairs
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.pairs.append((x, gradient))
        return gradient @ weight, weight.new_zeros(()), None, None, None
