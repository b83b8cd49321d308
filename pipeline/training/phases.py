"""The two phases of a training: cross-entropy and, if requested, self-critical training.

A phase defines its loss, its learning rate, its number of epochs and its training figures in the
history. Everything else is common to both phases and is in trainer.py.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.decoders.shared.contract import Decoder, Loss
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import Batch, Size
from pipeline.experiment.params import Training
from pipeline.training.learning_rate import learning_rate
from pipeline.training.optimizer import autocast
from pipeline.training.scheduled_sampling import mixed_inputs, own_word_probability
from pipeline.training.self_critical import CiderReward, self_critical_loss


class StepLoss(NamedTuple):
    """The loss of one step, or of some of its images."""

    loss: Tensor
    "The loss to minimise: a scalar with gradients, a mean over `tokens`."
    figures: dict[str, float]
    """Columns of the history. Each figure is a mean over `tokens`; the history holds its mean over
    an epoch."""
    tokens: int


def joined(steps: Sequence[StepLoss]) -> StepLoss:
    """Return the loss of a step, combined from the losses of its parts."""
    tokens = sum(step.tokens for step in steps)
    figures = {
        name: sum(step.figures[name] * step.tokens for step in steps) / tokens
        for name in steps[0].figures
    }
    loss = torch.stack([step.loss * step.tokens for step in steps]).sum() / tokens
    return StepLoss(loss, figures, tokens)


class Phase(Protocol):
    epochs: int
    "Maximum number of epochs. `train.patience` may end the phase earlier."

    def learning_rate(self, step: int, plateau_scale: float) -> float:
        """Return the learning rate of step `step`, counted from the start of the training."""

    def loss(self, batch: Batch, step: int, whole: Size | None = None) -> StepLoss:
        """Return the loss of a batch.

        Args:
            whole: size of the step's whole batch, if `batch` is a part of it. The mean of the
                parts' losses, weighted by tokens, is then the loss of the whole batch.
        """


class CrossEntropy:
    """Teacher forcing or scheduled sampling, with label smoothing and the decoder's regularisers.

    Args:
        batches: number of steps per epoch.
    """

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, options: Training, batches: int, device: str
    ):
        self.decoder, self.special = decoder, tokenizer.special
        self.options, self.device = options, device
        self.epochs = options.epochs
        self.steps = options.epochs * batches

    def learning_rate(self, step: int, plateau_scale: float) -> float:
        return learning_rate(self.options, step, self.steps, plateau_scale)

    def loss(self, batch: Batch, step: int, whole: Size | None = None) -> StepLoss:
        """Return the loss. `train_loss` is the cross-entropy alone; each regulariser has its own
        column."""
        with autocast(self.device, self.options.precision):
            loss = self.decoder.loss(
                batch.features,
                batch.tokens,
                batch.mask,
                batch.rows,
                self.options.label_smoothing,
                self._inputs(batch, step),
            )
        figures = {"train_loss": loss.cross_entropy.item()}
        figures |= {f"train_{name}": term.item() for name, term in loss.terms.items()}
        return StepLoss(_by_tokens(loss, whole), figures, loss.tokens)

    def _inputs(self, batch: Batch, step: int) -> Tensor | None:
        """Return what the decoder reads; None stands for the reference captions."""
        probability = own_word_probability(self.options, step, self.steps)
        return mixed_inputs(self.decoder, batch, probability, self.special) if probability else None


class SelfCritical:
    """Self-critical training on CIDEr-D. `train_reward` and `train_baseline` replace `train_loss`.

    Args:
        max_tokens: maximum length of a sampled caption.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        options: Training,
        reward: CiderReward,
        max_tokens: int,
        device: str,
    ):
        self.decoder, self.tokenizer, self.reward = decoder, tokenizer, reward
        self.options, self.max_tokens, self.device = options, max_tokens, device
        self.epochs = options.self_critical_epochs

    def learning_rate(self, step: int, plateau_scale: float) -> float:
        return self.options.self_critical_lr

    def loss(self, batch: Batch, step: int, whole: Size | None = None) -> StepLoss:
        count = self.options.self_critical_samples
        with autocast(self.device, self.options.precision):
            found = self_critical_loss(
                self.decoder, batch, self.tokenizer, self.reward, count, self.max_tokens
            )
        return StepLoss(*found)


def _by_tokens(loss: Loss, whole: Size | None) -> Tensor:
    """Return the loss of a part, adjusted so that the trainer may average the parts over tokens.

    Terms that are means over captions are rescaled. Their mean over tokens then equals the mean
    over all captions of the whole batch.
    """
    if whole is None:
        return loss.total
    captions = {name: loss.terms[name] for name in loss.counts}
    shares = {
        name: count * whole.tokens / (loss.tokens * whole.captions)
        for name, count in loss.counts.items()
    }
    other = sum((shares[name] - 1) * term for name, term in captions.items())
    return loss.total + other
