"""Checkpoints. A training killed at any moment resumes from its last one, bit for bit on a CPU."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from pipeline.core.errors import UserError, let_through
from pipeline.data.files import whole_file

# Errors that a damaged file causes in torch.load, or when its content is read.
DAMAGED = (
    *(RuntimeError, EOFError, UnpicklingError),
    *(OSError, ValueError, KeyError, TypeError),
)


@dataclass
class Progress:
    """State that the rest of a run depends on, besides weights, optimiser and random numbers."""

    epoch: int = 0
    "Number of epochs done."
    batch: int = 0
    "Number of batches done in the current epoch."
    phase: int = 0
    "Number of phases done."
    phase_start: int = 0
    "Number of epochs done before the current phase."
    sums: dict[str, float] = field(default_factory=dict)
    "Sums over the current epoch: `tokens`, and each training figure summed over tokens."
    plateau_scale: float = 1.0
    "Factor of the learning rate; below 1 once validation scores have stopped rising."
    stale: int = 0
    "Number of epochs since the best one, in this phase."
    best_score: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    "One row for each epoch done."
    seconds: float = 0.0
    "Duration of the training in seconds. No result depends on this or the next two fields."
    step_seconds: float = 0.0
    "The part of `seconds` that steps on training images took."
    images: int = 0
    "Number of training images that the steps have seen."


def random_states() -> dict[str, Any]:
    """Return the states of this process's random number generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda}


def save_checkpoint(path: Path, state: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Write `state` and the states of all random number generators.

    The old file stays until the new one is complete.

    Args:
        others: `random_states` of the other ranks.
    """
    ranks = {"ranks": others} if others else {}
    with whole_file(path) as part, part.open("wb") as file:
        write({**state, **random_states(), **ranks}, file)


def write(state: dict[str, Any], file: BinaryIO) -> None:
    """Call torch.save, but raise OSError for a full disk: its zip writer hides it behind
    RuntimeError."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_checkpoint(path: Path, key: str, rank: int = 0) -> dict[str, Any] | None:
    """Return the state of a training with the same `key`, and restore this rank's random numbers.

    The number of ranks and the device may differ from those that wrote the file. The same training
    then resumes, but not bit for bit. A rank that the file does not know keeps its random numbers.

    Returns:
        the state; None if the file is missing, damaged or has another key.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["key"]
    except DAMAGED as error:
        let_through(error)
        print(f"{path} is damaged: starting from scratch", flush=True)
        return None
    if found != key:
        print(f"{path} belongs to other settings, code or data: starting from scratch", flush=True)
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
    """Return the interval of checkpoints within an epoch, in seconds.

    CAPTIONLAB_CHECKPOINT_MINUTES sets it, in minutes.
    """
    text = os.environ.get("CAPTIONLAB_CHECKPOINT_MINUTES", "10")
    try:
        return 60 * float(text)
    except ValueError:
        raise UserError(
            f"CAPTIONLAB_CHECKPOINT_MINUTES={text}: expected a number of minutes"
        ) from None
