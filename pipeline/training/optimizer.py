"""The optimiser, the gradient clipping and the precision of a training."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from pipeline.core.quick_torch import leave_out_compiler
from pipeline.experiment.params import Training


def build_optimizer(decoder: nn.Module, options: Training) -> torch.optim.Optimizer:
    """Return the optimiser of the weights that are trained.

    Fused kernels pass over the weights once per step, not once per operation.
    """
    leave_out_compiler()
    weights = [p for p in decoder.parameters() if p.requires_grad]
    weights = weights or [nn.Parameter(torch.empty(0))]  # torch refuses an empty list
    common: dict[str, Any] = {"weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "sgd":
        return torch.optim.SGD(weights, options.lr, momentum=options.momentum, **common)
    kinds: dict[str, type[torch.optim.Adam]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    kind = kinds[options.optimizer]
    return kind(weights, options.lr, **common)


def clip_gradients(decoder: nn.Module, options: Training) -> None:
    """Clip the gradients by their common norm, clip each value, or do nothing."""
    if options.clip == "norm":
        nn.utils.clip_grad_norm_(decoder.parameters(), options.clip_at)
    elif options.clip == "value":
        nn.utils.clip_grad_value_(decoder.parameters(), options.clip_at)


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context for the forward pass. bfloat16 needs no loss scaling; weights and
    optimiser stay float32."""
    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"
    )
