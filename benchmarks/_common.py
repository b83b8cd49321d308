"""What the benchmarks share: the clock, interleaved repeats, a synthetic corpus with its features,
and the place of results."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

K = TypeVar("K")
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Number of entries of the vocabulary. The papers on Flickr8k have 7,698 and 8,911.
WORDS = 8000
# The shape of EfficientNet-Lite0's last map at 224 pixels.
POSITIONS, WIDTH = 49, 1280
PER_IMAGE = 5


def environment() -> dict[str, Any]:
    """Return command, commit and machine, the first keys of every result."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    module = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    return {
        "command": " ".join([module, *sys.argv[1:]]),
        "commit": commit or "no git",
        "machine": machine(),
    }


def machine() -> str:
    """Describe the machine: its kind, the cores that this process may use, and its GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = (
        f"{cores} of {os.cpu_count()} cores {platform.machine()}, {platform.system()}, Python "
        f"{platform.python_version()}"
    )
    gpu = gpu_name()
    return f"{kind}, {gpu}" if gpu else kind


def gpu_name() -> str:
    """Return the name of the GPU; '' if there is none, or if torch was not imported."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else ""


def introduction(about: Mapping[str, Any]) -> str:
    """Return the first line of every table: how to reproduce it, and where it was made."""
    return f"`{about['command']}` at {about['commit']}, {about['machine']}."


def save(name: str, about: Mapping[str, Any], text: str) -> None:
    """Write results/<name>.json and .md, and print the latter."""
    (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table: the first column is aligned left, the others (numbers) right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows]) + "\n"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(works: Mapping[K, Callable[[], object]], repeats: int) -> dict[K, list[float]]:
    """Return the seconds of each work. Every repeat runs all works once, so a machine that slows
    down slows them all."""
    times: dict[K, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median of the ratios within each repeat."""
    return statistics.median(o / u for o, u in zip(over, under, strict=True))


def word(n: int) -> str:
    return f"w{n:04}"


def captions(images: int, seed: int = 0, per_image: int = PER_IMAGE, words: int = WORDS):  # type: ignore[no-untyped-def]
    """Return the table of a training split: image_id, caption_id, text, split. Lengths are as in
    Flickr8k (mean 10.8, deviation 3.8); words follow Zipf's law."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    lengths = rng.normal(10.8, 3.8, images * per_image).round().clip(3, 30).astype(int)
    chance = 1 / np.arange(1, words - 3)
    drawn = rng.choice(len(chance), lengths.sum(), p=chance / chance.sum())
    texts = [" ".join(map(word, part)) for part in np.split(drawn, lengths.cumsum()[:-1])]
    ids = [f"i{n:07}" for n in range(images) for _ in range(per_image)]
    numbers = [f"{i}#{n % per_image}" for n, i in enumerate(ids)]
    return pd.DataFrame({"image_id": ids, "caption_id": numbers, "text": texts, "split": "train"})


def tokenizer():  # type: ignore[no-untyped-def]
    """Return a tokenizer with `WORDS` entries, whatever the captions hold."""
    from pipeline.decoders.shared.tokenizers import word_tokenizer

    return word_tokenizer([word(n) for n in range(WORDS - 4)], 1)


def feature_store(folder: Path, images: int, positions: int = POSITIONS, width: int = WIDTH):  # type: ignore[no-untyped-def]
    """Write random features of `images` images as the extract stage would, and return their
    store."""
    import pandas as pd

    from pipeline.data.files import write_json
    from pipeline.features.store import FeatureStore

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    grid = np.lib.format.open_memmap(
        folder / "grid-00000.npy", "w+", np.float16, (images, positions, width)
    )
    for start in range(0, images, 256):
        part = grid[start : start + 256]
        part[:] = rng.random(part.shape, np.float32)
    np.save(folder / "pooled-00000.npy", grid[:, 0])
    pd.DataFrame(
        {"image_id": [f"i{n:07}" for n in range(images)], "row": range(images)}
    ).to_parquet(folder / "ids.parquet")
    write_json(folder / "manifest.json", {})
    grid.flush()
    return FeatureStore(folder)
