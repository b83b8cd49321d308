"""Checkpoints: a training that is killed at any moment goes on from its last one, bit for bit (on a
CPU)."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from pipeline.core.errors import UserError, let_through
from pipeline.data.files import whole_file

DAMAGED = (
    *(RuntimeError, EOFError, UnpicklingError),
    *(OSError, ValueError, KeyError, TypeError),
)
"what torch.load, and a look into what it gave, raise over a damaged file"


@dataclass
class Progress:
    """All that the rest of a run depends on beside weights, optimiser and random numbers."""

    epoch: int = 0
    "Epochs done."
    batch: int = 0
    "Batches done of the current epoch."
    phase: int = 0
    "Phases done."
    phase_start: int = 0
    "Epochs done before the current phase."
    sums: dict[str, float] = field(default_factory=dict)
    "Of the current epoch: `tokens`, and each training figure summed over tokens."
    plateau_scale: float = 1.0
    "Factor of the learning rate; below 1 once validation scores have stopped rising."
    stale: int = 0
    "Epochs since the best one, in this phase."
    best_score: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    "A row for each epoch done."
    seconds: float = 0.0
    "That all this took; no result depends on it, nor on the next two."
    step_seconds: float = 0.0
    "Of these, those of steps on training images."
    images: int = 0
    "Training images that the steps have seen."


def random_states() -> dict[str, Any]:
    """Those of this process's random number generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda}


def save_checkpoint(path: Path, state: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Write `state` and the states of all random number generators; the old file stays until the
    new one is whole.

    Args:
        others: `random_states` of the other ranks.
    """
    ranks = {"ranks": others} if others else {}
    with whole_file(path) as part, part.open("wb") as file:
        write({**state, **random_states(), **ranks}, file)


def write(state: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, but a full disk raises OSError: its zip writer hides it behind RuntimeError."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_checkpoint(path: Path, key: str, rank: int = 0) -> dict[str, Any] | None:
    """The state of a training with the same `key`, the random number generators of this rank set;
    None if there is none.

    The number of ranks may be another one than that which wrote it, as the device may: the same
    training goes on, but not to the same bit. A rank that the file does not know keeps its random
    numbers.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["key"]
    except DAMAGED as error:
        let_through(error)
        print(f"{path} is damaged: starting anew", flush=True)
        return None
    if found != key:
        print(f"{path} is of other settings, code or data: starting anew", flush=True)
        return None
    known = [state, *state.get("ranks", [])]
    if rank < len(known):
        _set_random_states(known[rank])
    return state


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["rng"])
    for device, state in enumerate(states["cuda_rng"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)


def checkpoint_seconds() -> float:
    """How often a checkpoint is written within an epoch, from CAPTIONLAB_CHECKPOINT_MINUTES."""
    text = os.environ.get("CAPTIONLAB_CHECKPOINT_MINUTES", "10")
    try:
        return 60 * float(text)
    except ValueError:
        raise UserError(
            f"CAPTIONLAB_CHECKPOINT_MINUTES={text}: expected a number of minutes"
        ) from None
