"""Where a training step goes: `python -m benchmarks.profile [decoder ...]` ->
benchmarks/results/profile.{json,md}.

Measures the own processor time of every operation in the training steps of benchmarks.training,
with 160 captions in float32. It uses one thread, so that no thread waits for another and distorts
the shares.

The limit of benchmarks.training is square matrix products with as many operations. The products of
a step have other shapes, for which the library is slower. Their share of that speed is what a
training could reach of the limit if it did nothing else.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile

from benchmarks import _common as common
from benchmarks import _decoders as decoders
from benchmarks.training import Setting, make_trainer, operations, ours, products
from pipeline.features.store import FeatureStore

IMAGES = 96
SETTING = Setting((32, 5), "float32")
WITH_VOCABULARY, OTHER_PRODUCTS = "matrix products with the vocabulary", "other matrix products"
# Operations that are, or hold, matrix products. A fused kernel holds other operations as well.
PRODUCTS = "aten::mm", "aten::addmm", "aten::bmm"
FUSED = "scaled_dot_product", "rnn_layer"
# Operations with a smaller share of a step are summed up as "others".
LEAST = 0.01


def measure(name: str, store: FeatureStore) -> dict[str, Any]:
    """Return the seconds of an epoch by operation, and the seconds of square matrix products with
    the same number of floating-point operations."""
    trainer = make_trainer(name, SETTING, store, "cpu")
    square = products(operations(trainer), "float32", "cpu")
    epoch = ours(trainer)
    epoch(), square()
    return {"square": common.seconds(square), "seconds": spent(epoch)}


def spent(epoch: Callable[[], None]) -> dict[str, float]:
    """Return the seconds by operation, the longest first. Matrix products are split into those with
    the vocabulary and all others."""
    with profile(record_shapes=True) as watched:
        epoch()
    found: dict[str, float] = defaultdict(float)
    for event in watched.key_averages(group_by_input_shape=True):
        found[_kind(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _kind(operation: str, shapes: list[list[int]]) -> str:
    if operation not in PRODUCTS and not any(part in operation for part in FUSED):
        return operation.removeprefix("aten::")
    sizes = [size for shape in shapes for size in shape]
    if common.WORDS in sizes:
        return WITH_VOCABULARY
    return OTHER_PRODUCTS


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = common.feature_store(Path(folder), IMAGES)
        found = {name: measure(name, store) for name in sys.argv[1:] or decoders.ARGS}
    about = {**common.environment(), "threads": 1, "captions a step": 160, "decoders": found}
    common.save("profile", about, table(about))


def table(about: dict[str, Any]) -> str:
    parts = [
        f"{common.introduction(about)} Share of a step's own processor time, 160 captions, "
        "float32, one thread.\n"
    ]
    for name, found in about["decoders"].items():
        seconds = found["seconds"]
        whole = sum(seconds.values())
        large = {kind: taken / whole for kind, taken in seconds.items() if taken >= LEAST * whole}
        rows = [[kind, f"{share:.1%}"] for kind, share in large.items()]
        rows.append([f"{len(seconds) - len(large)} others", f"{1 - sum(large.values()):.1%}"])
        products = seconds[WITH_VOCABULARY] + seconds[OTHER_PRODUCTS]
        parts.append(common.markdown([name, "share"], rows))
        parts.append(
            f"Its matrix products take {products / whole:.0%} of the step, and have "
            f"{found['square'] / products:.0%} of the speed of square ones: with nothing else to "
            "do, it would reach that share of the limit.\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    main()
