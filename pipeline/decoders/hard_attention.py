"""Stochastic hard attention: the decoder looks at one grid position per word, and REINFORCE teaches
it where (Xu et al., 2015, "Show, Attend and Tell", section 4.1; equations numbered as in
arXiv:1502.03044).

alpha_t = softmax(v . tanh(K a_i + Q h_t-1)),  s_t ~ Multinoulli(alpha_t),  z_t = a at s_t
    (equations 4, 5, 8, 9)
h_t = LSTM([embed(w_t), z_t], h_t-1),  p(w_t+1) = softmax(W h_t)

The gradient of each caption's log p(y), from the end of section 4.1:
d log p(y|s) + lambda_r (log p(y|s) - b) d log p(s) + lambda_e d H[s]

In evaluation, s_t is the likeliest position, which is also an option of the authors' code. No
caption, beam score or teacher-forced log-probability then depends on chance. There is no gate,
because section 4.2.1 gives it to soft attention alone.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.ranges import Dropout, Share, Weight, Width
from pipeline.decoders.shared import layers
from pipeline.decoders.shared.attention_lstm import AttentionLstm
from pipeline.decoders.shared.contract import Loss, Sizes, State
from pipeline.features.features import Features


class Decoder(AttentionLstm):
    """An LSTM with hard attention.

    In evaluation, it looks at the likeliest position. Self-critical training also runs in that
    mode, and trains everything except the attention.

    Args:
        reinforce: weight lambda_r of the REINFORCE term; 1 leaves the gradient unbiased.
        entropy: weight lambda_e of the entropy term.
        expected: probability that an image is seen, for one loss, through the expected context
            sum_i alpha_i a_i instead of samples.
    """

    reads = "grid"
    summed = ("log_sampled", "entropy")
    baseline: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        embedding: Width = 512,
        hidden: Width = 512,
        attention: Width = 512,
        dropout: Dropout = 0.5,
        reinforce: Weight = 1.0,
        entropy: Weight = 0.002,
        expected: Share = 0.5,
    ):
        super().__init__(sizes, embedding, hidden, attention, dropout)
        self.reinforce, self.entropy, self.expected = reinforce, entropy, expected
        self.register_buffer("baseline", torch.zeros(()))

    def start(self, f: Features) -> State:
        s, zero = super().start(f), torch.zeros(f.grid.shape[0], device=f.grid.device)
        expected = torch.rand_like(zero) < self.expected if self.training else zero.bool()
        return {**s, "expected": expected, "log_sampled": zero, "entropy": zero}

    def advance(self, words: Tensor, s: State) -> tuple[Tensor, State]:
        log_alpha = self.energies(s).float().log_softmax(-1)  # (B, P)
        alpha, place = log_alpha.exp(), self._choose(log_alpha)
        weights = torch.where(s["expected"][:, None], alpha, F.one_hot(place, alpha.shape[1]))
        context = layers.contexts(weights, s["grid"])  # (B, D)
        h, c = layers.lstm_cell(self.cell, words, context, s["h"], s["c"])
        log_sampled = log_alpha.gather(1, place[:, None]).squeeze(1).masked_fill(s["expected"], 0.0)
        sums = {
            "log_sampled": s["log_sampled"] + log_sampled,
            "entropy": s["entropy"] - (alpha * log_alpha).sum(-1),
        }
        return h, {**s, **sums, "h": h, "c": c, "alpha": alpha}

    def _choose(self, log_alpha: Tensor) -> Tensor:
        """Return a position for each row of (B, P).

        In training, it is a sample (the Gumbel-max trick); otherwise, it is the likeliest.
        """
        if self.training:
            log_alpha = log_alpha - torch.empty_like(log_alpha).exponential_().log()
        return log_alpha.argmax(-1)

    def loss(
        self,
        f: Features,
        tokens: Tensor,
        mask: Tensor,
        rows: Tensor | None = None,
        smoothing: float = 0.0,
        inputs: Tensor | None = None,
    ) -> Loss:
        """Return the loss, as in contract.py.

        The value of the term `reinforce` has no meaning; its gradient is the estimator.
        """
        valid = mask[:, 1:]
        hidden, last = self.unroll(
            f, tokens[:, :-1] if inputs is None else inputs, valid.sum(1).cpu(), rows
        )
        targets = tokens[:, 1:][valid]
        layer = self.last_layer(hidden[valid])
        cross_entropy, log_probs = layer.cross_entropy_and_log_probs(targets, smoothing)
        log_prob = torch.zeros_like(last["entropy"]).index_add(
            0, valid.nonzero()[:, 0], log_probs
        )  # (R,) log p(y|s)
        return Loss(cross_entropy, self._estimator(log_prob, last, len(targets)), len(targets))

    def _estimator(self, log_prob: Tensor, last: State, count: int) -> dict[str, Tensor]:
        """Return terms on the cross-entropy's scale: sums over captions, divided by the number of
        tokens.

        In training, this updates the baseline.
        """
        advantage = (
            log_prob - self.baseline
        )  # the baseline is from earlier batches only, or it would bias the estimate
        if self.training:
            self.baseline.mul_(0.9).add_(0.1 * log_prob.mean())
        return {
            "reinforce": -self.reinforce * (advantage * last["log_sampled"]).sum() / count,
            "entropy": -self.entropy * last["entropy"].sum() / count,
        }
