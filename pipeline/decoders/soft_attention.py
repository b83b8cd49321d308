"""Soft attention over the grid, with a gated context and a doubly stochastic regulariser (Xu et
al., 2015, "Show, Attend and Tell").

e_ti = v . tanh(K a_i + Q h_t-1),  alpha_t = softmax(e_t)
z_t = sigmoid(B h_t-1) * sum_i alpha_ti a_i
h_t = LSTM([embed(w_t), z_t], h_t-1),  p(w_t+1) = softmax(W h_t)
    (equations 4-5 and 13, section 4.2.1)
"""

import torch
from torch import Tensor

from pipeline.core.ranges import Dropout, Weight, Width
from pipeline.decoders.shared import deferred_gradient, layers
from pipeline.decoders.shared.attention_lstm import AttentionLstm
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.features.features import Features


class Decoder(AttentionLstm):
    """An LSTM with soft attention.

    Its regulariser is a mean over positions, added to a mean over tokens. Equation 14 adds a sum
    over positions to a sum over words. Later code also adds a mean to a mean, with the same weight
    1, including the code of the tables' sources.

    Args:
        stochastic: weight of the regulariser mean_i (1 - sum_t alpha_ti)^2, which is added to a
            cross-entropy per token.
    """

    reads = "grid"
    summed = ("attended",)

    def __init__(
        self,
        sizes: Sizes,
        *,
        embedding: Width = 512,
        hidden: Width = 512,
        attention: Width = 512,
        dropout: Dropout = 0.5,
        stochastic: Weight = 1.0,
    ):
        super().__init__(sizes, embedding, hidden, attention, dropout, gated=True)
        self.stochastic = stochastic

    def start(self, f: Features) -> State:
        s = super().start(f)
        return {**s, "attended": s["alpha"]}  # (B, P), the sum of all alpha

    def advance(self, words: Tensor, s: State) -> tuple[Tensor, State]:
        alpha = self.energies(s).softmax(-1)  # (B, P)
        context = layers.contexts(alpha, s["grid"])
        gate = deferred_gradient.linear(s["h"], self.gate.weight, self.gate.bias)
        context = torch.sigmoid(gate) * context  # (B, D)
        h, c = layers.lstm_cell(self.cell, words, context, s["h"], s["c"])
        return h, {**s, "h": h, "c": c, "alpha": alpha, "attended": s["attended"] + alpha}

    def regularisers(self, last: State) -> dict[str, Tensor]:
        return {"stochastic": self.stochastic * (1 - last["attended"]).square().mean()}
