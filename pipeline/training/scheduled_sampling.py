"""Scheduled sampling: in training, the decoder reads some of its own words (Bengio et al., 2015).

First the words that it reads are drawn step by step, without gradients. Then the loss is computed
as for any other inputs. No gradient flows through a drawn word, so this is the paper's training. It
works for every decoder and costs one more pass.
"""

import math

import torch
from torch import Tensor

from pipeline.decoders.shared.contract import Decoder, pick_rows
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding.batches import Batch
from pipeline.decoding.generation import draw
from pipeline.experiment.params import Training


def own_word_probability(options: Training, step: int, total: int) -> float:
    """Return the probability that an input is the decoder's own previous word.

    `step` is counted from 0, and there are `total` steps. The schedules:

    linear: grows from 0 to `sampling_end`.
    inverse_sigmoid: 1 - k / (k + exp(step / k)) with k = `sampling_k` (section 2.4 of the paper,
        whose epsilon is 1 minus this).
    always: no teacher forcing at all.
    """
    if options.scheduled_sampling == "linear":
        return options.sampling_end * min(1.0, step / max(1, total - 1))
    if options.scheduled_sampling == "inverse_sigmoid":
        k = options.sampling_k
        return 1 - k / (k + math.exp(min(step / k, 700)))  # exp overflows beyond 709
    return float(options.scheduled_sampling == "always")


@torch.no_grad()
def mixed_inputs(decoder: Decoder, batch: Batch, probability: float, special: Special) -> Tensor:
    """Return inputs (R, T) that begin like the batch's; each later word is drawn from the decoder
    with `probability`.

    Special tokens, including <end>, are never drawn, because the reference continues after each
    drawn word.
    """
    state = pick_rows(decoder.start(batch.features), batch.rows)
    inputs = [batch.tokens[:, 0]]
    for t in range(1, batch.tokens.shape[1] - 1):
        logits, state = decoder.step(inputs[-1], state)
        own = draw(logits, special, may_end=False)
        coin = torch.rand(len(own), device=own.device) < probability
        inputs.append(torch.where(coin, own, batch.tokens[:, t]))
    return torch.stack(inputs, 1)
