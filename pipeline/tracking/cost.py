"""The cost of a training: time, speed and memory.

The file is kept beside the checkpoints. It is not a DVC output, because it differs even between two
trainings whose outputs are identical.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.core.errors import UserError
from pipeline.data.checked import read_checked
from pipeline.data.files import digest, write_json

WEIGHTS = "model.safetensors"


class Cost(BaseModel):
    """The file of one training."""

    weights: str
    "Digest of the trained weights. The costs apply to no other model."
    device: str
    metrics: dict[str, float]
    "Metric values by their names in MLflow."


def write_cost(
    file: Path,
    model: Path,
    device: str,
    peak: int,
    seconds: float,
    step_seconds: float,
    images: int,
) -> None:
    """Write the cost of training the model in a folder.

    Args:
        peak: peak memory in bytes: GPU memory if a GPU trained.
        seconds: duration including validation, without interruptions and lost work.
        step_seconds, images: seconds spent in training steps only, and the images in those steps.
    """
    metrics = {"cost/train_seconds": seconds, "cost/peak_memory_gb": peak / 1e9}
    if step_seconds > 0:
        metrics["cost/images_per_second"] = images / step_seconds
    write_json(file, {"weights": digest(model / WEIGHTS), "device": device, "metrics": metrics})


def read_cost(file: Path, model: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Return metrics and tags for the run of a model.

    Both are empty if the file is damaged, missing or describes other weights. It may be missing or
    outdated if another machine trained the model, or if DVC restored it.
    """
    if not file.is_file():
        return {}, {}
    with suppress(UserError):  # A damaged file is not a DVC output, so nothing can restore it.
        told: dict[str, Any] = read_checked(file, Cost)
        if told["weights"] == digest(model / WEIGHTS):
            return told["metrics"], {"device": told["device"]}
    return {}, {}
