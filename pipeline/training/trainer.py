"""The training loop. It may be killed at any moment, and goes on from its checkpoint."""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.progress import bar
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import Batch, CaptionBatches
from pipeline.experiment.params import Training
from pipeline.training.checkpoint import (
    Progress,
    checkpoint_seconds,
    read_checkpoint,
    save_checkpoint,
)
from pipeline.training.optimizer import build_optimizer, clip_gradients
from pipeline.training.phases import CrossEntropy, Phase, SelfCritical, StepLoss, joined
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
        torch.manual_seed(self.seed)
        self._resume()
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
        for batch in self._batches():
            self._set_learning_rate(phase)
            self.optimizer.zero_grad(set_to_none=True)
            step = self._backward(phase, batch)
            clip_gradients(self.decoder, self.options)
            self.optimizer.step()
            self._record(step)
            self.progress.batch += 1
            self.progress.images += len(batch.image_ids)
            self.progress.step_seconds += time.monotonic() - begun
            begun = time.monotonic()
            if time.monotonic() - self.saved > self.every:
                self._save()

    def _backward(self, phase: Phase, batch: Batch) -> StepLoss:
        """Gradients of the loss of a batch, which passes in parts where `micro_batch` asks for it:
        the parts' gradients are weighted by their tokens."""
        images = self.options.micro_batch or len(batch.image_ids)
        if images >= len(batch.image_ids):
            step = phase.loss(batch, self._step)
            self._check_finite(step.loss)
            step.loss.backward()
            return step
        steps = []
        for part in batch.parts(images):
            step = phase.loss(part, self._step, batch)
            self._check_finite(step.loss)
            (step.loss * step.tokens).backward()
            steps.append(step._replace(loss=step.loss.detach()))
        tokens = sum(step.tokens for step in steps)
        for weight in self.decoder.parameters():
            if weight.grad is not None:
                weight.grad /= tokens
        return joined(steps)

    def _validate(self) -> None:
        """End the epoch: its row of the history, and the best weights so far."""
        p = self.progress
        scores = self.validation.scores(self.decoder, self.tokenizer)
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

    def _batches(self) -> Iterator[Batch]:
        """Those of the current epoch that are still to be done."""
        p, total = self.progress, len(self.train_batches)
        batches = self.train_batches.epoch(self.seed, p.epoch, p.batch)
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
        self._lap()
        state = {
            "key": self.key,
            "decoder": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.checkpoint, state)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        state = read_checkpoint(self.checkpoint, self.key)
        if state is None:
            return
        self.decoder.load_state_dict(state["decoder"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {k: v.to(self.device) for k, v in state["best"].items()}
        self.progress = p = Progress(**state["progress"])
        print(f"resuming at epoch {p.epoch + 1}, batch {p.batch + 1}", flush=True)


def check_options(options: Training, decoder: Decoder) -> None:
    """Raises: UserError: settings that cannot be meant together, or with this decoder."""
    if options.self_critical_epochs and options.select == "loss":
        raise UserError(
            "train.select is loss, which self-critical training raises: select cider or bleu_4"
        )
    if not options.epochs and not decoder.published:
        raise UserError(
            "train.epochs is 0, which takes a published model as it is, and this decoder loads "
            "none: train it for an epoch or more, or let its args name one (model of vit_gpt2, "
            "blip, git or vlm, checkpoint of prefix_lm)"
        )
    if options.epochs and not any(weight.requires_grad for weight in decoder.parameters()):
        raise UserError(
            f"train.epochs is {options.epochs}, and no weight of this decoder is trained: set "
            "args.tune to adapter or all, or train.epochs to 0"
        )


def warn_of_long_warmup(options: Training, batches: int) -> None:
    """One line where the warm-up ends after the last step, so that `lr` is never reached.

    Args:
        batches: number of steps an epoch.
    """
    steps = options.epochs * batches
    if options.warmup_steps > steps > 0:
        highest = options.lr * steps / options.warmup_steps
        print(
            f"train.warmup_steps is {options.warmup_steps}, but the training has {steps} steps: "
            f"the learning rate ends at {highest:.3g} and never reaches train.lr, {options.lr:g}. "
            "Lower train.warmup_steps.",
            file=sys.stderr,
            flush=True,
        )


def _line(row: dict[str, float]) -> str:
    """What is printed of an epoch."""
    whole = ("epoch", "step")
    return " ".join(f"{k} {v:g}" if k in whole else f"{k} {v:.4g}" for k, v in row.items())
