"""Training steps: `python -m benchmarks.training [decoder ...]` ->
benchmarks/results/training.{json,md}.

Measures captions per second of whole training steps by the Trainer: batch from the memory map,
loss, gradients, clipping and Adam. The limit is a sequence of square matrix products with the same
number of floating-point operations. That number is counted for our loss and its gradients.

The textbook (benchmarks/textbook.py) takes the same number of captions per step, each with its own
copy of its image's features, in float32 on a CPU. Where the processor multiplies bfloat16,
`precision: bfloat16` is measured too, and its limit is products in bfloat16. Sizes are those of the
papers, words follow Zipf's law, and features are random.
"""

import math
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _common as common
from benchmarks import _decoders as decoders
from benchmarks import textbook
from pipeline.core.machine import multiplies_bfloat16, pick_device
from pipeline.decoding.batches import CaptionBatches, pad_rows
from pipeline.experiment.params import Training
from pipeline.features.store import FeatureStore
from pipeline.training.checkpoint import Progress
from pipeline.training.optimizer import autocast
from pipeline.training.trainer import Trainer
from pipeline.training.validation import Validation

REPEATS = 3
# Side of the square matrices whose products are the limit.
SIDE = 1024
# Images per step, and captions per image. The first gives the 32 captions of the papers, the
# second is the batch of params.yaml.
SMALL, GROUPED = (8, 4), (32, 5)
# The batches, with the number of steps that are timed.
BATCHES = {SMALL: 2, GROUPED: 1}
# Goals at 32 images per step. `textbook`: speed-up of soft and hard attention over the textbook.
# The others are shares of the limit: in float32 for these two decoders (`attention`) and for all
# other decoders (`others`), and in bfloat16 for all decoders.
GOALS = {"textbook": 4.5, "attention": 0.75, "others": 0.8, "bfloat16": 0.6}


@dataclass(frozen=True)
class Setting:
    """The batch and precision of a row of the table."""

    batch: tuple[int, int]
    precision: str


def settings(device: str) -> list[Setting]:
    """Return the settings for a device. A GPU uses bfloat16; a CPU uses float32, and also bfloat16
    if it multiplies that type."""
    precisions = (
        ["bfloat16"]
        if device.startswith("cuda")
        else ["float32", "bfloat16"][: 1 + multiplies_bfloat16(device)]
    )
    return [Setting(batch, precision) for precision in precisions for batch in BATCHES]


def options(setting: Setting) -> Training:
    """Return the training options of the quickstart, changed by the setting."""
    chosen = yaml.safe_load((common.ROOT / "params.yaml").read_text())["train"]
    return Training(**{**chosen, "batch_images": setting.batch[0], "precision": setting.precision})


def make_trainer(name: str, setting: Setting, store: FeatureStore, device: str) -> Trainer:
    tokenizer = common.tokenizer()
    images, per_image = setting.batch
    captions = common.captions(images * BATCHES[setting.batch], per_image=per_image)
    batches = CaptionBatches([captions], store, tokenizer, images, device)
    decoder = decoders.build(name, tokenizer.special).to(device)
    nowhere = Path(tempfile.gettempdir()) / "never-written"
    return Trainer(
        decoder, tokenizer, batches, Validation(batches, {}, 30), options(setting), 1, nowhere, ""
    )


def ours(trainer: Trainer) -> Callable[[], None]:
    def epoch() -> None:
        trainer.progress = Progress()
        trainer._train_epoch(trainer.phases[0])

    return epoch


def theirs(name: str, trainer: Trainer) -> Callable[[], None]:
    """Return an epoch of the textbook: the same captions in another order, with as many per
    step."""
    model = textbook.model(name, trainer.decoder).to(trainer.device)
    optimizer = torch.optim.Adam(model.parameters(), trainer.options.lr)
    precision = trainer.options.precision

    def epoch() -> None:
        model.train()
        for f, tokens, mask in single_captions(trainer.train_batches):
            optimizer.zero_grad()
            with autocast(trainer.device, precision):
                cross_entropy, regulariser = model.loss(f, tokens, mask)
            (cross_entropy + regulariser).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.options.clip_at)
            optimizer.step()

    return epoch


def single_captions(batches: CaptionBatches) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
    """Yield batches of shuffled captions: features (R, ...), tokens and mask (R, T + 1)."""
    counts = batches.first[1:] - batches.first[:-1]
    image_ids = [
        i for i, count in zip(batches.image_ids, counts, strict=True) for _ in range(count)
    ]
    order = torch.randperm(len(image_ids), generator=torch.Generator().manual_seed(0)).tolist()
    rows = batches.batch_images * int(counts[0])
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        tokens, mask = pad_rows([batches.caption(n) for n in chosen], batches.pad)
        f = batches.store.get([image_ids[c] for c in chosen], batches.device)
        yield (
            f,
            torch.from_numpy(tokens).to(batches.device),
            torch.from_numpy(mask).to(batches.device),
        )


def operations(trainer: Trainer) -> int:
    """Count the floating-point operations of the losses and gradients of an epoch. Fused kernels
    are disabled, so that their operations are counted."""
    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Switching oneDNN always warns about TF32.
        with counter, torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            for batch in trainer.train_batches.epoch(1, 0):
                trainer.decoder.train().loss(
                    batch.features, batch.tokens, batch.mask, batch.rows
                ).total.backward()
    return counter.get_total_flops()


def products(count: int, precision: str, device: str) -> Callable[[], None]:
    """Return a function that computes square matrix products with about `count` floating-point
    operations."""
    kind = getattr(torch, precision)
    a, b = torch.randn(2, SIDE, SIDE, device=device, dtype=kind)
    out = torch.empty_like(a)

    def work() -> None:
        for _ in range(round(count / (2 * SIDE**3))):
            torch.mm(a, b, out=out)

    return work


def measure(name: str, store: FeatureStore, device: str) -> list[dict[str, Any]]:
    """Return a row for each setting. The textbook is measured with the first setting."""
    trainers = {setting: make_trainer(name, setting, store, device) for setting in settings(device)}
    counts = {setting: operations(trainer) for setting, trainer in trainers.items()}
    first = next(iter(trainers))
    works: dict[tuple[str, Setting], Callable[[], None]] = {
        ("textbook", first): theirs(name, trainers[first])
    }
    for setting, trainer in trainers.items():
        works |= {
            ("ours", setting): ours(trainer),
            ("limit", setting): products(counts[setting], setting.precision, device),
        }
    for work in works.values():
        work()
    times = {
        (kind, s): [t / captions(s) for t in taken]
        for (kind, s), taken in common.interleaved(works, REPEATS).items()
    }
    rows = []
    for setting, count in counts.items():
        each = {
            "ours": times["ours", setting],
            "limit": times["limit", setting],
            "textbook": times["textbook", first],
        }
        rows.append(row(setting, count / captions(setting), each))
    return rows


def captions(setting: Setting) -> int:
    """Return the number of captions of all timed steps."""
    return math.prod(setting.batch) * BATCHES[setting.batch]


def row(setting: Setting, operations: float, each: dict[str, list[float]]) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        operations: Floating-point operations per caption.
        each: Seconds per caption in each repeat.
    """
    return {
        "images_a_step": setting.batch[0],
        "captions_a_step": math.prod(setting.batch),
        "precision": setting.precision,
        "giga_operations_per_caption": round(operations / 1e9, 3),
        "captions_per_second": {k: round(1 / statistics.median(v), 1) for k, v in each.items()},
        "share_of_limit": round(common.ratio(each["limit"], each["ours"]), 3),
        "over_textbook": round(common.ratio(each["textbook"], each["ours"]), 2),
    }


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    device, found = pick_device(), {}
    with tempfile.TemporaryDirectory() as folder:
        store = common.feature_store(Path(folder), 64)
        for name in sys.argv[1:] or decoders.ARGS:
            found[name] = measure(name, store, device)
    about = {
        **common.environment(),
        "median_of": REPEATS,
        "device": device,
        "goals": GOALS,
        "decoders": found,
    }
    common.save("training", about, table(about))


def table(about: dict[str, Any]) -> str:
    head = [
        "decoder",
        "precision",
        "images a step",
        "captions a step",
        "captions/s",
        "limit",
        "share of limit",
    ]
    head += ["textbook", "over textbook"]
    rows = []
    for name, measured in about["decoders"].items():
        for m in measured:
            speed = m["captions_per_second"]
            cells = [
                name,
                m["precision"],
                m["images_a_step"],
                m["captions_a_step"],
                speed["ours"],
                speed["limit"],
            ]
            rows.append(
                [
                    *map(str, cells),
                    f"{m['share_of_limit']:.0%}",
                    str(speed["textbook"]),
                    f"{m['over_textbook']:.2f}",
                ]
            )
    goals = (
        f"Goals on a CPU at {GROUPED[0]} images a step: soft and hard attention "
        f"{GOALS['textbook']} times the textbook and {GOALS['attention']:.0%} of the limit in "
        f"float32, the other decoders {GOALS['others']:.0%} of it; in bfloat16 "
        f"{GOALS['bfloat16']:.0%}. The textbook takes 32 captions a "
        "step in every row, in the precision of the first."
    )
    gpu = (
        ""
        if about["device"] != "cpu"
        else " No GPU here: the share of its limit in bfloat16 was not measured."
    )
    text = f"Median of {about['median_of']} interleaved runs on {about['device']}. {goals}{gpu}"
    return f"{common.introduction(about)} {text}\n\n{common.markdown(head, rows)}"


if __name__ == "__main__":
    main()
