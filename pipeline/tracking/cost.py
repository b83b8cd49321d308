"""What a training took: time, speed and memory. It is kept beside the checkpoints, and no output of
DVC: two trainings that are equal to the byte differ in it.
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
    "digest of what was trained: the file tells of no other model"
    device: str
    metrics: dict[str, float]
    "by their names in MLflow"


def write_cost(
    file: Path,
    model: Path,
    device: str,
    peak: int,
    seconds: float,
    step_seconds: float,
    images: int,
) -> None:
    """Write what the training of a model folder took.

    Args:
        peak: bytes of memory at most; of the GPU where one trained.
        seconds: from first to last, validation included, interruptions and lost work left out.
        step_seconds, images: of the steps on training images alone.
    """
    metrics = {"cost/train_seconds": seconds, "cost/peak_memory_gb": peak / 1e9}
    if step_seconds > 0:
        metrics["cost/images_per_second"] = images / step_seconds
    write_json(file, {"weights": digest(model / WEIGHTS), "device": device, "metrics": metrics})


def read_cost(file: Path, model: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags for the run of a model; none where another machine trained it, DVC
    restored it, or the file is damaged."""
    if not file.is_file():
        return {}, {}
    with suppress(UserError):  # damaged: no output of DVC, so nothing brings it back
        told: dict[str, Any] = read_checked(file, Cost)
        if told["weights"] == digest(model / WEIGHTS):
            return told["metrics"], {"device": told["device"]}
    return {}, {}
