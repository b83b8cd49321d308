"""An LSTM that looks at the grid before every word, by additive attention.

Soft and hard attention share it (Xu et al., 2015, "Show, Attend and Tell", equations 4 and 5).

e_ti = v . tanh(K a_i + Q h_t-1),  h_t = LSTM([embed(w_t), z_t], h_t-1),
p(w_t+1) = softmax(W h_t)

A decoder computes the context z_t from the energies e_t.
"""

import torch
from torch import Tensor, nn

from pipeline.decoders.shared import contract, deferred_gradient, layers
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.features.features import Features


class AttentionLstm(contract.Decoder):
    """`gated` adds the layer B of the gate of section 4.2.1."""

    attends = True
    shared = ("grid", "keys")

    def __init__(
        self,
        sizes: Sizes,
        embedding: int,
        hidden: int,
        attention: int,
        dropout: float,
        gated: bool = False,
    ):
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, embedding)
        self.keys = nn.Linear(sizes.grid, attention)
        self.query = nn.Linear(hidden, attention)
        self.energy = nn.Linear(attention, 1, bias=False)
        if gated:
            self.gate = nn.Linear(hidden, sizes.grid)
        self.initial = nn.Linear(sizes.grid, 2 * hidden)
        self.cell = nn.LSTMCell(embedding + sizes.grid, hidden)
        self.output = nn.Linear(hidden, sizes.vocabulary)
        self.dropout = nn.Dropout(dropout)

    def start(self, f: Features) -> State:
        h, c = torch.tanh(self.initial(f.grid.mean(1))).chunk(2, -1)
        alpha = f.grid.new_zeros(f.grid.shape[:2])  # (B, P)
        grid = layers.for_products(f.grid)
        return {"grid": grid, "keys": self.keys(grid), "h": h, "c": c, "alpha": alpha}

    def embed(self, tokens: Tensor) -> Tensor:
        return layers.words_gates(self.cell, self.embedding(tokens))

    def energies(self, s: State) -> Tensor:
        """(B, P)"""
        query = deferred_gradient.linear(s["h"], self.query.weight, self.query.bias)
        return layers.energies(s["keys"], query, self.energy)

    def last_layer(self, hidden: Tensor) -> LastLayer:
        return LastLayer(self.dropout(hidden), self.output.weight, self.output.bias)
