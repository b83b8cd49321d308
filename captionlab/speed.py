"""Measure how fast trained variants caption on this machine.

The measurement is started by hand, and its result is an input of the report. Two runs of the graph
give equal bytes, but two measurements do not.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.captioner.captioner import Captioner
from pipeline.captioning.captions import caption_features
from pipeline.data.shards import Member
from pipeline.features.store import FeatureStore
from pipeline.images.reading import read_image

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.encoders.shared.base import Encoder

PASSES = 5
# Seconds after which no further pass begins.
LIMIT = 30.0
# Images that a pass captions one by one.
ALONE = 16
TOGETHER = 64
# Pictures per pass of the encoder, as in `extract`.
ENCODED = 32


@dataclass(frozen=True)
class Material:
    """What a variant is measured on."""

    store: FeatureStore
    image_ids: list[str]
    "Images to caption. If there are too few, they are repeated from the first."
    pictures: list[Member]
    "The pictures of these images."


def rate(work: Callable[[], object], count: int) -> float:
    """Return `count` divided by the median seconds of `work()`, to two significant digits.

    A first call is not measured.
    """
    began = time.perf_counter()
    work()
    taken: list[float] = []
    while len(taken) < PASSES and (not taken or time.perf_counter() - began < LIMIT):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(f"{count / median(taken):.2g}")


def captions_per_second(captioner: Captioner, material: Material) -> dict[str, float]:
    """Return the captions per second from stored features, with the captioner's own decoding.

    The keys are the images per batch: 1, and `TOGETHER`.
    """
    ids = list(islice(cycle(material.image_ids), TOGETHER))

    def caption(images: Sequence[str]) -> None:
        features = material.store.get(images, captioner.device)
        caption_features(captioner.decoder, captioner.tokenizer, features, captioner.decode)

    def one_by_one() -> None:
        for image in ids[:ALONE]:
            caption([image])

    return {"1": rate(one_by_one, ALONE), str(TOGETHER): rate(lambda: caption(ids), TOGETHER)}


def images_per_second(encoder: "Encoder", pictures: Sequence[Member], device: str) -> float:
    """Return the images per second of the encoder alone: reading and resizing do not count."""
    import torch

    members = islice(cycle(pictures), ENCODED)
    pixels: Tensor = torch.stack([encoder.transform(read_image(m.read())) for m in members])
    pixels = pixels.to(device)
    return rate(lambda: encoder(pixels).pooled.cpu(), ENCODED)  # .cpu() waits for the device


def machine(device: str) -> str:
    """Return the maker's name of the processor that did the work."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    name = f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"
    return name if device == "cpu" else f"{device} of {_processor()}"


def _processor() -> str:
    """Return the processor's name, read from a file on Linux, where `platform` does not know it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(errors="replace").splitlines() if about.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(
    captioner: Captioner, material: Material, encoder_rate: float | None = None
) -> dict[str, Any]:
    """Return a variant's entry of reports/speed.json, without its commit and its decoding's name.

    Args:
        encoder_rate: images per second of its encoder, if another variant's measurement gave it.
    """
    known = encoder_rate or images_per_second(
        captioner.encoder, material.pictures, captioner.device
    )
    found = captions_per_second(captioner, material)
    return {
        "captions_per_second": found,
        "images_per_second": known,
        "machine": machine(captioner.device),
    }
