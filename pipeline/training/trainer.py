"""The training loop. It can be killed at any moment and resumes from its checkpoint."""

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

# Columns of the history. Regularisers and self-critical training add their own.
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
# Interval, in steps, at which a step's figures are sent to the live curves.
LIVE_STEPS = 20


class Live(Protocol):
    """Receives the curves while training runs. Training must not suffer if the receiver is dead."""

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
    "File from which an interrupted run resumes."
    key: str
    """Fingerprint of everything that determines the result. A checkpoint with another key is not
    used."""
    reward: CiderReward | None = None
    "Required if `options` asks for self-critical training."
    live: Live | None = None
    ranks: Ranks = ALONE
    "The processes that train together; this process is one of them."

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
            the history, with one row per epoch; without epochs, only its header.
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
        """Compute the gradients of a batch's loss.

        The batch is passed in parts if several ranks share it or `micro_batch` asks for parts. The
        gradients of the parts are weighted by their numbers of tokens.

        Args:
            batch: this rank's share of the batch.
            whole: size of the batch of all ranks.
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
        """Add the gradients of one part, weighted by its tokens. Return its loss without gradients,
        on the CPU."""
        step = phase.loss(part, self._step, whole)
        self._check_finite(step.loss)
        (step.loss * step.tokens).backward()
        return step._replace(loss=step.loss.detach().cpu())

    def _validate(self) -> None:
        """End the epoch: validate, add a row to the history and keep the best weights so far."""
        p = self.progress
        scores = self.validation.scores(self.decoder, self.tokenizer, self.ranks)
        for name, value in scores.items():  # no training loss follows an epoch's last update
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
        """Return whether this epoch is the best. If it is, keep its weights; if not, count it for
        patience and plateau."""
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
        """Load the best weights and start the next phase with a new optimiser.

        The moments of the old optimiser belong to the other loss.
        """
        p = self.progress
        p.phase, p.phase_start, p.stale = p.phase + 1, p.epoch, 0
        if self.best:  # empty before the first epoch
            self.decoder.load_state_dict(self.best, strict=False)
        self.optimizer = build_optimizer(self.decoder, self.options)

    @property
    def _step(self) -> int:
        """Number of steps done since the start of the training."""
        return self.progress.epoch * len(self.train_batches) + self.progress.batch

    def _batches(self) -> Iterator[Share]:
        """Return this rank's shares of the batches of the current epoch that are still to be
        done."""
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
        """Return the weights that training can change."""
        every = self.decoder.state_dict()
        return {name: every[name] for name in self.decoder.saved()}

    def _lap(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.lapped
        self.lapped = now

    def _save(self) -> None:
        """Write the checkpoint in rank 0, with the random states of all ranks."""
        self._lap()
        random = self.ranks.gather(random_states())
        if not self.ranks.rank:
            self._write_checkpoint(random[1:])
        self.saved = time.monotonic()

    def _write_checkpoint(self, random: list[dict[str, Any]]) -> None:
        """Write the checkpoint. `random` holds the `random_states` of the other ranks."""
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
        # The gather is also a barrier: afterwards rank 0 may overwrite the checkpoint.
        if len(set(self.ranks.gather(state is None))) > 1:
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
    """Return the line that is printed for an epoch."""
    whole = ("epoch", "step")
    return " ".join(f"{k} {v:g}" if k in whole else f"{k} {v:.4g}" for k, v in row.items())
