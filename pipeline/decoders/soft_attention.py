"""Soft attention over the grid (Xu et al., 2015, "Show, Attend and Tell"): gated context, doubly
stochastic regulariser.

e_ti = v . tanh(K a_i + Q h_t-1),  alpha_t = softmax(e_t),  z_t = sigmoid(B h_t-1) * sum_i alpha_ti
a_i h_t = LSTM([embed(w_t), z_t], h_t-1),  p(w_t+1) = softmax(W h_t)   (equations 4-5 and 13,
section 4.2.1)
"""

import torch
from torch import Tensor, nn

from pipeline.core.ranges import Dropout, Weight, Width
from pipeline.decoders.shared import contract, deferred_gradient, layers
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.features.features import Features


class Decoder(contract.Decoder):
    """`stochastic` weighs the regulariser mean_i (1 - sum_t alpha_ti)^2 beside a cross-entropy per
    token.

    Equation 14 has the sum over positions beside a sum over words; the mean beside a mean is what
    later code, that of the tables' sources too, uses under the same weight 1.
    """

    summed = ("attended",)
    attends = True
    shared = ("grid", "keys")

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
        super().__init__()
        self.stochastic = stochastic
        self.embedding = nn.Embedding(sizes.vocabulary, embedding)
        self.keys = nn.Linear(sizes.grid, attention)
        self.query = nn.Linear(hidden, attention)
        self.energy = nn.Linear(attention, 1, bias=False)
        self.gate = nn.Linear(hidden, sizes.grid)
        self.initial = nn.Linear(sizes.grid, 2 * hidden)
        self.cell = nn.LSTMCell(embedding + sizes.grid, hidden)
        self.output = nn.Linear(hidden, sizes.vocabulary)
        self.dropout = nn.Dropout(dropout)

    def start(self, f: Features) -> State:
        h, c = torch.tanh(self.initial(f.grid.mean(1))).chunk(2, -1)
        nothing = f.grid.new_zeros(f.grid.shape[:2])  # (B, P)
        return {
            "grid": f.grid,
            "keys": self.keys(f.grid),
            "h": h,
            "c": c,
            "alpha": nothing,
            "attended": nothing,
        }

    def embed(self, tokens: Tensor) -> Tensor:
        return layers.words_gates(self.cell, self.embedding(tokens))

    def advance(self, words: Tensor, s: State) -> tuple[Tensor, State]:
        query = deferred_gradient.linear(s["h"], self.query.weight, self.query.bias)
        energy = layers.energies(s["keys"], query, self.energy)
        alpha = energy.softmax(-1)  # (B, P)
        context = layers.contexts(alpha, s["grid"])
        context = (
            torch.sigmoid(deferred_gradient.linear(s["h"], self.gate.weight, self.gate.bias))
            * context
        )  # (B, D)
        h, c = layers.lstm_cell(self.cell, words, context, s["h"], s["c"])
        return h, {**s, "h": h, "c": c, "alpha": alpha, "attended": s["attended"] + alpha}

    def project(self, hidden: Tensor) -> Tensor:
        return self.output(self.dropout(hidden))

    def regularisers(self, last: State) -> dict[str, Tensor]:
        return {"stochastic": self.stochastic * (1 - last["attended"]).square().mean()}
