"""Cross-entropy, then self-critical training: a visible loop that may be killed at any moment and
goes on bit for bit (CPU)."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.progress import bar
from pipeline.data.files import whole_file
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import Batch, CaptionBatches
from pipeline.decoding.likelihood import mean_loss
from pipeline.decoding.search import greedy
from pipeline.experiment.params import Training
from pipeline.metrics import bleu, cider
from pipeline.metrics.degeneration import bad_endings
from pipeline.training.learning_rate import learning_rate
from pipeline.training.scheduled_sampling import mixed_inputs, own_word_probability
from pipeline.training.self_critical import CiderReward, self_critical_loss

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
"of the history, where regularisers and self-critical training add none"


class Live(Protocol):
    """Where curves go while training runs; a dead receiver must cost nothing."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


@dataclass
class Progress:
    """Everything besides weights and optimiser that the rest of the run depends on."""

    epoch: int = 0
    batch: int = 0
    "batches of this epoch already done"
    sums: dict[str, float] = field(default_factory=dict)
    "of this epoch: train_loss and what stands beside it, each weighted by tokens, and tokens"
    plateau_scale: float = 1.0
    stale: int = 0
    "epochs since the best one"
    cross_entropy_epochs: int | None = None
    "how many there were, once self-critical training has begun"
    best_score: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Validation:
    """The validation split as batches, and the cleaned references that greedy captions are compared
    with."""

    batches: CaptionBatches
    references: dict[str, list[str]]
    max_tokens: int


class Trainer:
    """Trains `decoder` in place; `run` returns the history and leaves the best epoch's weights in
    it.

    Args:
        checkpoint: file that an interrupted run resumes from.
        key: fingerprint of all that determines the result; a checkpoint with another key is not
            resumed.
        reward: of self-critical training, where options ask for it.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        train: CaptionBatches,
        validation: Validation,
        options: Training,
        seed: int,
        checkpoint: Path,
        key: str,
        reward: CiderReward | None = None,
        live: Live | None = None,
    ):
        self.decoder, self.tokenizer, self.train_batches, self.validation = (
            decoder,
            tokenizer,
            train,
            validation,
        )
        self.options, self.seed, self.checkpoint, self.key, self.live = (
            options,
            seed,
            checkpoint,
            key,
            live,
        )
        self.device = train.device
        self.optimizer = _optimizer(decoder, options)
        if options.self_critical_epochs and options.select == "loss":
            raise UserError(
                "train.select is loss, which self-critical training raises: select cider or bleu_4"
            )
        if not options.epochs and not decoder.published:
            raise UserError(
                "train.epochs is 0, which takes a published model as it is, and this "
                "decoder loads none: train it for an "
                "epoch or more, or let its args name one (model of vit_gpt2, blip or git, "
                "checkpoint of prefix_lm)"
            )
        self.reward = reward
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.saved = time.monotonic()
        self.every = _checkpoint_seconds()

    def run(self) -> pd.DataFrame:
        """Train until `epochs` or until `patience` epochs brought no gain, then self-critically; a
        row of history an epoch.

        No epochs at all leave the decoder as it is, and a history that is a header.
        """
        torch.manual_seed(self.seed)
        self._resume()
        while self._goes_on():
            self._train_epoch()
            self._validate()
            self._save()
        self._take_best()
        return (
            pd.DataFrame(self.progress.history)
            if self.progress.history
            else pd.DataFrame(columns=COLUMNS)
        )

    def _goes_on(self) -> bool:
        p, o = self.progress, self.options
        if p.cross_entropy_epochs is None:
            if p.epoch < o.epochs and p.stale < o.patience:
                return True
            self._begin_self_critical()
        return p.epoch < self.epochs and p.stale < o.patience

    def _begin_self_critical(self) -> None:
        """The best weights so far, and an optimiser that remembers nothing of the other loss."""
        self.progress.cross_entropy_epochs, self.progress.stale = self.progress.epoch, 0
        self._take_best()
        self.optimizer = _optimizer(self.decoder, self.options)

    def _take_best(self) -> None:
        # else no epoch has been validated: there are none, or none before the self-critical ones
        if self.best:
            self.decoder.load_state_dict(self.best)

    @property
    def epochs(self) -> int:
        """How many there will be at most, of both kinds."""
        done = self.progress.cross_entropy_epochs
        return (self.options.epochs if done is None else done) + self.options.self_critical_epochs

    def _train_epoch(self) -> None:
        p = self.progress
        self.decoder.train()
        for batch in self._epoch_batches():
            self._set_lr()
            self.optimizer.zero_grad(set_to_none=True)
            loss, values, tokens = (
                self._cross_entropy(batch)
                if p.cross_entropy_epochs is None
                else self._self_critical(batch)
            )
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"the training loss is not finite in epoch {p.epoch + 1}: lower "
                    "train.lr or train.clip_at"
                )
            loss.backward()
            _clip(self.decoder, self.options)
            self.optimizer.step()
            self._account(values, tokens)
            p.batch += 1
            if time.monotonic() - self.saved > self.every:
                self._save()

    def _epoch_batches(self) -> Iterator[Batch]:
        p = self.progress
        batches = self.train_batches.epoch(self.seed, p.epoch, p.batch)
        return iter(
            bar(
                batches,
                desc=f"epoch {p.epoch + 1}",
                unit="batches",
                total=len(self.train_batches),
                initial=p.batch,
            )
        )

    def _cross_entropy(self, batch: Batch) -> "tuple[Tensor, dict[str, float], int]":
        """The loss to descend, its parts by name, and the number of tokens that they are means
        of."""
        probability = own_word_probability(
            self.options, self._step, self.options.epochs * len(self.train_batches)
        )
        with autocast(self.device, self.options.precision):
            inputs = (
                mixed_inputs(self.decoder, batch, probability, self.tokenizer.special)
                if probability
                else None
            )
            smoothing = self.options.label_smoothing
            loss = self.decoder.loss(
                batch.features, batch.tokens, batch.mask, batch.rows, smoothing, inputs
            )
        parts = {
            "train_loss": loss.cross_entropy.item(),
            **{f"train_{k}": v.item() for k, v in loss.terms.items()},
        }
        return loss.total, parts, loss.tokens

    def _self_critical(self, batch: Batch) -> "tuple[Tensor, dict[str, float], int]":
        assert self.reward, "self-critical training was asked for without a reward"
        count, longest = self.options.self_critical_samples, self.validation.max_tokens
        with autocast(self.device, self.options.precision):
            return self_critical_loss(
                self.decoder, batch, self.tokenizer, self.reward, count, longest
            )

    def _account(self, values: dict[str, float], tokens: int) -> None:
        sums = self.progress.sums
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * tokens
        sums["tokens"] = sums.get("tokens", 0.0) + tokens
        if self.live and self._step % 20 == 0:
            self.live.log(self._step, {f"step_{name}": value for name, value in values.items()})

    @property
    def _step(self) -> int:
        return self.progress.epoch * len(self.train_batches) + self.progress.batch

    def _set_lr(self) -> None:
        lr = self.options.self_critical_lr
        if self.progress.cross_entropy_epochs is None:
            total = self.options.epochs * len(self.train_batches)
            lr = learning_rate(self.options, self._step, total, self.progress.plateau_scale)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _validate(self) -> None:
        """Close the epoch: validation figures, the best weights, patience and plateau."""
        p, o = self.progress, self.options
        scores = {
            "val_loss": mean_loss(self.decoder, self.validation.batches),
            **self._greedy_scores(),
        }
        score = -scores["val_loss"] if o.select == "loss" else scores[f"val_{o.select}"]
        better = p.best_score is None or score > p.best_score
        if better:
            p.best_score, p.stale = score, 0
            self.best = {k: v.detach().clone() for k, v in self.decoder.state_dict().items()}
        else:
            p.stale += 1
            if o.schedule == "plateau" and p.stale % (o.plateau_patience + 1) == 0:
                p.plateau_scale *= o.plateau_factor
        means = {k: v / p.sums["tokens"] for k, v in p.sums.items() if k != "tokens"}
        row = {
            "epoch": p.epoch + 1,
            "step": self._step,
            "lr": self.optimizer.param_groups[0]["lr"],
            **means,
            **scores,
        }
        p.history.append({**row, "best": float(better)})
        print(
            " ".join(
                f"{k} {v:g}" if k in ("epoch", "step") else f"{k} {v:.4g}" for k, v in row.items()
            ),
            flush=True,
        )
        if self.live:
            self.live.log(self._step, {k: v for k, v in row.items() if k != "step"})
        p.epoch, p.batch, p.sums = p.epoch + 1, 0, {}

    def _greedy_scores(self) -> dict[str, float]:
        """CIDEr and BLEU-4 of greedy captions on the cleaned text of both sides: for choosing only,
        no PTB tokenizer."""
        self.decoder.eval()
        v = self.validation
        candidates: dict[str, str] = {}
        for batch in v.batches.in_order():
            found = greedy(self.decoder, batch.features, self.tokenizer.special, v.max_tokens)
            texts = [self.tokenizer.decode(h.tokens) for h in found]
            candidates |= dict(zip(batch.image_ids, texts, strict=True))
        references = {i: v.references[i] for i in candidates}
        return {
            "val_cider": cider.score(candidates, references).corpus["cider"],
            "val_bleu_4": bleu.score(candidates, references).corpus["bleu_4"],
            "val_bad_endings": bad_endings(candidates.values()),
        }

    def _save(self) -> None:
        with whole_file(self.checkpoint) as part, part.open("wb") as file:
            state = {
                "key": self.key,
                "decoder": self.decoder.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "progress": asdict(self.progress),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all()
                if self.device.startswith("cuda")
                else [],
            }
            _write(state, file)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state["key"] != self.key:
            print(
                f"{self.checkpoint} is of other settings, code or data: starting anew", flush=True
            )
            return
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {k: v.to(self.device) for k, v in state["best"].items()}
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        print(
            f"resuming at epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}",
            flush=True,
        )


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except (
        RuntimeError
    ) as error:  # its zip writer hides the full disk behind a complaint of its own
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _checkpoint_seconds() -> float:
    text = os.environ.get("CAPTIONLAB_CHECKPOINT_MINUTES", "10")
    try:
        return 60 * float(text)
    except ValueError:
        raise UserError(
            f"CAPTIONLAB_CHECKPOINT_MINUTES={text}: expected a number of minutes"
        ) from None


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 needs no loss scaling; weights and optimiser stay float32."""
    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"
    )


def _optimizer(decoder: nn.Module, o: Training) -> torch.optim.Optimizer:
    """The fused kernels, which pass over the weights once a step and not once per operation."""
    weights = [p for p in decoder.parameters() if p.requires_grad]
    if o.optimizer == "sgd":
        return torch.optim.SGD(
            weights, o.lr, momentum=o.momentum, weight_decay=o.weight_decay, fused=True
        )
    kind: type[torch.optim.Adam] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[
        o.optimizer
    ]
    return kind(weights, o.lr, weight_decay=o.weight_decay, fused=True)


def _clip(decoder: nn.Module, o: Training) -> None:
    if o.clip == "norm":
        nn.utils.clip_grad_norm_(decoder.parameters(), o.clip_at)
    elif o.clip == "value":
        nn.utils.clip_grad_value_(decoder.parameters(), o.clip_at)
