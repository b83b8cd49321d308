"""The training loop. It may be killed at any moment, and goes on from its checkpoint."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.progress import bar
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import Batch, CaptionBatches, Share, Size
from pipeline.experiment.params import Training
from pipeline.training.checkpoint import (
    Progress,
    checkpoint_seconds,
    random_states,
    read_checkpoint,
    save_checkpoint,
)
from pipeline.training.checks import check_options, warn_of_long_warmup
from pipeline.training.optimizer import build_optimizer, clip_gradients
from pipeline.training.phases import CrossEntropy, Phase, SelfCritical, StepLoss, joined
from pipeline.training.ranks import ALONE, Ranks
from pipeline.training.self_critical import CiderReward
from pipeline.training.validation import Validation

COLUMNS = [
    "epoch",
    "step",
    "lr",
    "train_loss",
    "val_loss",
    "val_cider",
    "val_bleu_4",
    "val_bad_endings",
    "best",
]
"Of the history; regularisers and self-critical training add theirs."
LIVE_STEPS = 20
"Every so many steps the figures of one are sent to the live curves."


class Live(Protocol):
    """Where curves go while training runs; a dead receiver must cost nothing."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


@dataclass
class Trainer:
    """Trains `decoder` in place."""

    decoder: Decoder
    tokenizer: Tokenizer
    train_batches: CaptionBatches
    validation: Validation
    options: Training
    seed: int
    checkpoint: Path
    "File that an interrupted run goes on from."
    key: str
    "Fingerprint of all that determines the result; a checkpoint with another key is not used."
    reward: CiderReward | None = None
    "Needed where `options` ask for self-critical training."
    live: Live | None = None
    ranks: Ranks = ALONE
    "The processes that train together, of which this is one."

    def __post_init__(self) -> None:
        check_options(self.options, self.decoder)
        self.device = self.train_batches.device
        warn_of_long_warmup(self.options, len(self.train_batches))
        self.phases = self._phases()
        self.optimizer = build_optimizer(self.decoder, self.options)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.saved = self.lapped = time.monotonic()
        self.every = checkpoint_seconds()

    def _phases(self) -> list[Phase]:
        o, device, model = self.options, self.device, (self.decoder, self.tokenizer, self.options)
        phases: list[Phase] = [CrossEntropy(*model, len(self.train_batches), device)]
        if o.self_critical_epochs:
            assert self.reward, "self-critical training was asked for without a reward"
            phases.append(SelfCritical(*model, self.reward, self.validation.max_tokens, device))
        return phases

    def run(self) -> pd.DataFrame:
        """Train, and leave the weights of the best epoch in the decoder.

        Returns:
            the history, a row an epoch; without epochs, a header.
        """
        torch.manual_seed(self.ranks.seed(self.seed))
        self._resume()
        self.ranks.equalise(self.decoder.state_dict().values())
        while self.progress.phase < len(self.phases):
            phase = self.phases[self.progress.phase]
            while self._goes_on(phase):
                self._train_epoch(phase)
                self._validate()
                self._save()
            self._end_phase()
        self._lap()
        history = self.progress.history
        return pd.DataFrame(history) if history else pd.DataFrame(columns=COLUMNS)

    def _goes_on(self, phase: Phase) -> bool:
        p = self.progress
        return p.epoch - p.phase_start < phase.epochs and p.stale < self.options.patience

    def _train_epoch(self, phase: Phase) -> None:
        self.decoder.train()
        begun = time.monotonic()
        for share in self._batches():
            self._set_learning_rate(phase)
            self.optimizer.zero_grad(set_to_none=True)
            step = self._backward(phase, *share)
            clip_gradients(self.decoder, self.options)
            self.optimizer.step()
            self._record(step)
            self.progress.batch += 1
            self.progress.images += share.whole.images
            self.progress.step_seconds += time.monotonic() - begun
            begun = time.monotonic()
            if self.ranks.broadcast(time.monotonic() - self.saved > self.every):
                self._save()

    def _backward(self, phase: Phase, batch: Batch | None, whole: Size | None = None) -> StepLoss:
        """Gradients of the loss of a batch, which passes in parts where it is shared out over ranks
        or `micro_batch` asks for it: the parts' gradients are weighted by their tokens.

        Args:
            batch: what this rank has of it.
            whole: of the batch of all ranks.
        """
        if self.ranks.count == 1 and batch and not self._has_parts(batch):
            step = phase.loss(batch, self._step)
            self._check_finite(step.loss)
            step.loss.backward()
            return step
        whole = whole or (batch.size if batch else None)
        own = [self._part(phase, part, whole) for part in self._parts(batch)]
        steps = [step for found in self.ranks.gather(own) for step in found]
        self.ranks.sum_gradients(self.decoder.parameters())
        tokens = sum(step.tokens for step in steps)
        for weight in self.decoder.parameters():
            if weight.grad is not None:
                weight.grad /= tokens
        return joined(steps)

    def _has_parts(self, batch: Batch) -> bool:
        return 0 < self.options.micro_batch < len(batch.image_ids)

    def _parts(self, batch: Batch | None) -> Iterable[Batch]:
        if batch and self._has_parts(batch):
            return batch.parts(self.options.micro_batch)
        return [batch] if batch else []

    def _part(self, phase: Phase, part: Batch, whole: Size | None) -> StepLoss:
        """Gradients of a part of a batch by its tokens; its loss, without gradients, on the CPU."""
        step = phase.loss(part, self._step, whole)
        self._check_finite(step.loss)
        (step.loss * step.tokens).backward()
        return step._replace(loss=step.loss.detach().cpu())

    def _validate(self) -> None:
        """End the epoch: its row of the history, and the best weights so far."""
        p = self.progress
        scores = self.validation.scores(self.decoder, self.tokenizer, self.ranks)
        for name, value in scores.items():  # the last step of an epoch has no loss after it
            if not math.isfinite(value):
                raise UserError(
                    f"{name} is not finite in epoch {p.epoch + 1}: lower train.lr or train.clip_at"
                )
        is_best = self._keep_best(scores)
        row = {
            "epoch": p.epoch + 1,
            "step": self._step,
            "lr": self.optimizer.param_groups[0]["lr"],
            **{name: v / p.sums["tokens"] for name, v in p.sums.items() if name != "tokens"},
            **scores,
        }
        print(_line(row), flush=True)
        if self.live:
            self.live.log(self._step, {k: v for k, v in row.items() if k != "step"})
        p.history.append({**row, "best": float(is_best)})
        p.epoch, p.batch, p.sums = p.epoch + 1, 0, {}

    def _keep_best(self, scores: dict[str, float]) -> bool:
        """Whether this epoch is the best; if not, patience and plateau count it."""
        p, o = self.progress, self.options
        score = -scores["val_loss"] if o.select == "loss" else scores[f"val_{o.select}"]
        if p.best_score is None or score > p.best_score:
            p.best_score, p.stale = score, 0
            self.best = {k: v.detach().clone() for k, v in self._weights().items()}
            return True
        p.stale += 1
        if o.schedule == "plateau" and p.stale % (o.plateau_patience + 1) == 0:
            p.plateau_scale *= o.plateau_factor
        return False

    def _end_phase(self) -> None:
        """The next phase starts from the best weights, with an optimiser that remembers nothing of
        the other loss."""
        p = self.progress
        p.phase, p.phase_start, p.stale = p.phase + 1, p.epoch, 0
        if self.best:  # none before the first epoch
            self.decoder.load_state_dict(self.best, strict=False)
        self.optimizer = build_optimizer(self.decoder, self.options)

    @property
    def _step(self) -> int:
        """Steps done, from the start of the training."""
        return self.progress.epoch * len(self.train_batches) + self.progress.batch

    def _batches(self) -> Iterator[Share]:
        """This rank's share of those of the current epoch that are still to be done."""
        p, total = self.progress, len(self.train_batches)
        own = self.train_batches.shared(self.ranks.rank, self.ranks.count)
        batches = own.shares(self.seed, p.epoch, p.batch)
        name = f"epoch {p.epoch + 1}"
        return iter(bar(batches, desc=name, unit="batches", total=total, initial=p.batch))

    def _set_learning_rate(self, phase: Phase) -> None:
        rate = phase.learning_rate(self._step, self.progress.plateau_scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _check_finite(self, loss: Tensor) -> None:
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the training loss is not finite in epoch {self.progress.epoch + 1}: lower "
                "train.lr or train.clip_at"
            )

    def _record(self, step: StepLoss) -> None:
        sums = self.progress.sums
        for name, value in step.figures.items():
            sums[name] = sums.get(name, 0.0) + value * step.tokens
        sums["tokens"] = sums.get("tokens", 0.0) + step.tokens
        if self.live and self._step % LIVE_STEPS == 0:
            self.live.log(self._step, {f"step_{name}": v for name, v in step.figures.items()})

    def _weights(self) -> dict[str, Tensor]:
        """Those that training can change."""
        every = self.decoder.state_dict()
        return {name: every[name] for name in self.decoder.saved()}

    def _lap(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.lapped
        self.lapped = now

    def _save(self) -> None:
        """Rank 0 writes the checkpoint; the others give it their random numbers."""
        self._lap()
        random = self.ranks.gather(random_states())
        if not self.ranks.rank:
            self._write_checkpoint(random[1:])
        self.saved = time.monotonic()

    def _write_checkpoint(self, random: list[dict[str, Any]]) -> None:
        """`random`: `random_states` of the other ranks."""
        state = {
            "key": self.key,
            "decoder": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.checkpoint, state, random)

    def _resume(self) -> None:
        self.key = self.ranks.broadcast(self.key)
        state = read_checkpoint(self.checkpoint, self.key, self.ranks.rank)
        if len(set(self.ranks.gather(state is None))) > 1:  # also: rank 0 may now write it anew
            raise UserError(
                f"{self.checkpoint} could not be read by every process: run the same command again"
            )
        if state is None:
            return
        self.decoder.load_state_dict(state["decoder"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {k: v.to(self.device) for k, v in state["best"].items()}
        self.progress = p = Progress(**state["progress"])
        print(f"resuming at epoch {p.epoch + 1}, batch {p.batch + 1}", flush=True)


def _line(row: dict[str, float]) -> str:
    """What is printed of an epoch."""
    whole = ("epoch", "step")
    return " ".join(f"{k} {v:g}" if k in whole else f"{k} {v:.4g}" for k, v in row.items())
