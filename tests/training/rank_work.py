"""What the processes of test_ranks.py run.

Each process imports this file and, apart from it, only what it needs.
"""

import os
import signal
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.decoders.shared.tokenizers import Special
from pipeline.experiment.params import load_params
from pipeline.training.ranks import Ranks

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

# These make 20 steps. Of three images, one process has two and the other has one.
OPTIONS = {"epochs": 5, "batch_images": 3, "lr": 0.002}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{decoder: (decoder, {}) for decoder in registry.names("decoders")},
    "smoothed": ("soft_attention", {"label_smoothing": 0.1, "weight_decay": 0.01}),
    "micro_batch": ("soft_attention", {"batch_images": 7, "micro_batch": 2, "epochs": 10}),
    "an image for one of two": ("soft_attention", {"batch_images": 11, "epochs": 10}),
    "clipped by value": ("lstm", {"clip": "value", "clip_at": 0.01}),
    "own words": ("soft_attention", {"scheduled_sampling": "always"}),
    "self-critical": (
        "soft_attention",
        {"epochs": 1, "self_critical_epochs": 4, "self_critical_samples": 1},
    ),
}
RANDOM = {
    "epochs": 2, "batch_images": 5, "scheduled_sampling": "always", "self_critical_epochs": 2,
}  # fmt: skip


def second(logits: Tensor, special: Special, may_end: bool = True) -> Tensor:
    """Return the second likeliest word instead of a drawn one.

    Nothing is random then, and the sample differs from the greedy caption.
    """
    never = [special.pad, special.start, special.unknown, *([] if may_end else [special.end])]
    return logits.index_fill(1, torch.tensor(never), -1e9).topk(2).indices[:, 1]


def of_case(folder: Path, name: str, ranks: Ranks) -> dict[str, Any]:
    """Return the losses, history and weights of a training in which nothing is random."""
    from tests.training.test_trainer import trainer, weights

    decoder, options = CASES[name]
    t = trainer(folder / f"{name}-{ranks.rank}-of-{ranks.count}", decoder, **{**OPTIONS, **options})
    t.checkpoint, t.ranks, losses = folder / f"{name}-{ranks.count}.pt", ranks, []
    t.decoder.eval()
    t.decoder.train = lambda mode=True: t.decoder  # type: ignore[method-assign, assignment]
    record = t._record
    t._record = lambda step: (losses.append(step.loss.item()), record(step))  # type: ignore[method-assign, assignment, func-returns-value]
    history = t.run()
    return {"losses": losses, "history": history.to_dict("list"), "weights": weights(t)}


def of_cases(folder: Path, ranks: Ranks) -> dict[str, dict[str, Any]]:
    from pipeline.training import scheduled_sampling, self_critical

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduled_sampling, "draw", second)
        patch.setattr(self_critical, "draw", second)
        return {name: of_case(folder, name, ranks) for name in CASES}


def drawing(folder: Path, ranks: Ranks, own: list[Any] | None = None) -> "Trainer":
    """Return a trainer with dropout, own words (scheduled sampling) and sampled captions."""
    from tests.training.test_trainer import trainer

    t = trainer(folder / f"features-{ranks.rank}", "soft_attention", **RANDOM)
    t.checkpoint, t.ranks, part = folder / "checkpoint.pt", ranks, t._part
    if own is not None:
        t._part = lambda *a: own.append(part(*a)) or own[-1]  # type: ignore[method-assign, func-returns-value]
    return t


def train_all(device: str, ranks: Ranks, folder: Path, workspace: Path, killed: list[Path]) -> None:
    """Write what a rank finds into `folder`, where the test reads it.

    Args:
        killed: folders of interrupted trainings, which are continued.
    """
    from stages.train import train
    from tests.training.test_trainer import weights

    found: dict[str, Any] = {"cases": of_cases(folder, ranks)}
    for name, place in {"whole": folder / "whole", **{p.name: p for p in killed}}.items():
        own: list[Any] = []
        place.mkdir(exist_ok=True)
        t = drawing(place, ranks, own)
        history = t.run().to_csv()
        drawn = torch.rand(1).item()
        own = [tuple(step[1:]) for step in own]
        found[name] = {"history": history, "weights": weights(t), "own": own, "drawn": drawn}
    os.chdir(workspace)
    with redirect_stdout(StringIO()) as said:
        train(device, ranks, "soft", load_params())
    found["said"] = said.getvalue()
    torch.save(found, folder / f"found-{ranks.rank}.pt")


def kill_one(device: str, ranks: Ranks, folder: Path, victim: int) -> None:
    """Train as in train_all, but kill the rank `victim` in the step after a checkpoint."""
    t = drawing(folder, ranks)
    every, count = t._set_learning_rate, 0

    def counted(phase: Any) -> None:
        nonlocal count
        every(phase)
        count += 1
        if count == 5 and ranks.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    t._set_learning_rate = counted  # type: ignore[method-assign]
    t.run()


def wrong(device: str, ranks: Ranks) -> None:
    if ranks.rank:
        raise UserError("the second is wrong: mend it")
    ranks.gather(0)


def wrong_at_length(device: str, ranks: Ranks) -> None:
    """Raise an error of more words than a pipe holds."""
    if ranks.rank:
        raise ValueError("word " * 50_000)
    ranks.gather(0)


def waiting(device: str, ranks: Ranks, folder: Path) -> None:
    """Let one rank hang in a collective and the other in Python."""
    (folder / f"{ranks.rank}.part").write_text(str(os.getpid()))
    (folder / f"{ranks.rank}.part").rename(folder / f"{ranks.rank}.pid")
    if ranks.rank:
        ranks.gather(0)
    time.sleep(600)
