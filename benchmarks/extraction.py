"""Measure extraction: `python -m benchmarks.extraction [images]` writes
benchmarks/results/extraction.{json,md}.

The result is images per second from JPEG files in shards to the memory maps, for several batch
sizes. This is pipeline.extraction.extract: read, decode, transform, network, write. The same run
measures two limits. One is the network alone on ready tensors, with the same batch sizes. The other
is reading, decoding and transforming alone, in the same number of threads. On a CPU both share the
cores, so a whole run takes at least the sum of their times. On a GPU it takes at least the longer
of the two. Pictures are 500 x 375 pixels of noise on a gradient, as large in bytes as photographs.
"""

# ruff: noqa: E402
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from pipeline.core.machine import let_threads_sleep

let_threads_sleep()  # as the stage does, before torch is imported

import numpy as np
import torch
from PIL import Image

from benchmarks import _common as common
from pipeline.core.machine import pick_device, workers
from pipeline.core.registry import load
from pipeline.data.shards import Member, Shards
from pipeline.extraction.extract import extract
from pipeline.images.reading import read_image
from pipeline.sources.shared.shards import ShardWriter

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tf_efficientnet_lite0": (
        "timm_model",
        {"model": "tf_efficientnet_lite0", "weights": "package", "image_size": 224},
    ),
    "resnet18, random": (
        "timm_model",
        {"model": "resnet18", "weights": "random", "image_size": 224},
    ),
    "pixels": ("pixels", {"image_size": 224}),
}
BATCHES = (8, 32, 128)
IMAGES = 128
REPEATS = 3
# Goal for the share of the limit. The limit is the slower part where a GPU works beside the CPU,
# and the sum of both where one CPU does both.
GOAL = 0.9


def pictures(count: int) -> list[bytes]:
    """Return JPEG files of about 70 kB, the size of photographs of 500 x 375 pixels."""
    found = []
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 255, 500)[None, :, None] * np.ones((375, 1, 3))
    for _ in range(count):
        noise = np.kron(rng.normal(0, 40, (94, 125, 3)), np.ones((4, 4, 1)))[:375] + rng.normal(
            0, 9, (375, 500, 3)
        )
        jpeg = BytesIO()
        Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8)).save(
            jpeg, "JPEG", quality=90
        )
        found.append(jpeg.getvalue())
    return found


def packed(files: list[bytes], often: int, folder: Path) -> Shards:
    """Return shards that hold each file `often` times."""
    folder.mkdir()
    with ShardWriter(folder) as writer:
        for n, content in enumerate(files * often):
            writer.add(f"i{n:05}", content, ".jpg")
    return Shards(folder)


def whole(encoder: Any, images: Shards, device: str, batch: int) -> None:
    out = images.folder / "features"
    extract(encoder, images, out, {"encoder": "x", "args": {}}, device, workers(), batch)
    shutil.rmtree(out)


def network(encoder: Any, pixels: torch.Tensor, device: str, batch: int) -> None:
    for part in pixels.split(batch):
        found = encoder(part.to(device))
        found.grid.half().cpu(), found.pooled.half().cpu()


def seen(encoder: Any, member: Member) -> torch.Tensor:
    pixels: torch.Tensor = encoder.transform(read_image(member.read()))
    return pixels


def reading(encoder: Any, images: Shards) -> None:
    with ThreadPoolExecutor(workers()) as pool:
        for _ in pool.map(partial(seen, encoder), images):
            pass


def measure(encoder: Any, images: Shards, device: str) -> list[dict[str, Any]]:
    pixels = torch.stack([seen(encoder, member) for member in images])
    works: dict[str, Callable[[], None]] = {"reading": partial(reading, encoder, images)}
    for batch in BATCHES:
        works[f"network {batch}"] = partial(network, encoder, pixels, device, batch)
        works[f"whole {batch}"] = partial(whole, encoder, images, device, batch)
    for work in works.values():
        work()
    times = common.interleaved(works, REPEATS)
    return [row(batch, len(images), times, device) for batch in BATCHES]


def row(batch: int, images: int, times: dict[str, list[float]], device: str) -> dict[str, Any]:
    read, alone, whole_run = times["reading"], times[f"network {batch}"], times[f"whole {batch}"]
    join = max if device.startswith("cuda") else lambda pair: sum(pair)
    limit = [join(pair) for pair in zip(read, alone, strict=True)]
    slower = [max(pair) for pair in zip(read, alone, strict=True)]
    speeds = {"whole": whole_run, "network": alone, "reading": read}
    return {
        "batch": batch,
        "images_per_second": {
            k: round(images / statistics.median(v), 1) for k, v in speeds.items()
        },
        "share_of_limit": round(common.ratio(limit, whole_run), 3),
        "share_of_slower": round(common.ratio(slower, whole_run), 3),
    }


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    device, found = pick_device(), {}
    files = pictures(count)
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, args) in ENCODERS.items():
            encoder = load("encoders", file).Encoder(**args).to(device)
            often = 4 if name == "pixels" else 1  # otherwise, one-time costs weigh too much
            found[name] = measure(encoder, packed(files, often, Path(folder) / name), device)
    about = {
        **common.environment(),
        "median_of": REPEATS,
        "device": device,
        "threads": workers(),
        "images": count,
        "bytes_per_image": sum(map(len, files)) // count,
        "goal": GOAL,
        "encoders": found,
    }
    common.save("extraction", about, table(about))


def table(about: dict[str, Any]) -> str:
    head = [
        "encoder",
        "images a batch",
        "images/s",
        "network alone",
        "reading alone",
        "share of limit",
        "share of slower",
    ]
    rows = []
    for name, measured in about["encoders"].items():
        for m in measured:
            speed = m["images_per_second"]
            cells = [m["batch"], speed["whole"], speed["network"], speed["reading"]]
            rows.append(
                [
                    name,
                    *map(str, cells),
                    f"{m['share_of_limit']:.0%}",
                    f"{m['share_of_slower']:.0%}",
                ]
            )
    text = (
        f"{about['images']} JPEG files of {about['bytes_per_image'] // 1000} kB, "
        f"{about['threads']} reading threads, "
        f"median of {about['median_of']} interleaved runs on {about['device']}. The limit "
        "is the slower of network and reading "
        f"on a GPU, one after the other on a CPU that does both. Goal: {about['goal']:.0%}."
    )
    return f"{common.introduction(about)} {text}\n\n{common.markdown(head, rows)}"


if __name__ == "__main__":
    main()
