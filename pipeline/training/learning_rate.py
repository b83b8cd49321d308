"""The learning rate as a function of the step. A resumed run therefore needs no scheduler state."""

import math

from pipeline.experiment.params import Training


def learning_rate(options: Training, step: int, total: int, plateau_scale: float) -> float:
    """Return the rate of step `step` (from 0) of `total`: linear warm-up, then the schedule.

    `plateau_scale` is the factor of the schedule `plateau`; the others ignore it.
    """
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    left = 1 - (step - options.warmup_steps) / max(1, total - options.warmup_steps)
    scale = {
        "constant": 1.0,
        "linear": left,
        "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))),
        "plateau": plateau_scale,
    }[options.schedule]
    return options.lr * scale
