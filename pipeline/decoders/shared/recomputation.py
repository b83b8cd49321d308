"""Layers of transformers whose activations are computed again in the backward pass (Chen et al.,
2016, "Training Deep Nets with Sublinear Memory Cost").

transformers' own switch takes the cache away from such layers, and the prompt is in the cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.core.errors import UserError


def layers(body: nn.Module) -> list[nn.Module]:
    """Return the layers that transformers would compute again.

    Raises:
        UserError: there is none.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: list[nn.Module] = [
        part for part in body.modules() if isinstance(part, GradientCheckpointingLayer)
    ]
    if not found:
        raise UserError(
            f"args.checkpointing: no layer of a {type(body).__name__} can be computed again: set "
            "it to false"
        )
    return found


@contextmanager
def recomputed(body: nn.Module) -> Iterator[None]:
    """Let the layers keep only their inputs for the backward pass.

    It holds for forward passes inside the context; their backward passes may come after it. A
    layer must do the same when it is computed again, including what it writes to a cache
    (key_values.py).
    """
    changed: list[Any] = layers(body)
    for layer in changed:
        # Reentrant checkpoints give no gradients to weights whose layer's input needs none, as
        # in the first layer of a frozen model with adapters.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward  # from the object; its class has one
