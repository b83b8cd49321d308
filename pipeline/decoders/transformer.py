"""Transformer over the words with cross-attention over the grid (Vaswani et al., 2017, "Attention
Is All You Need", figure 1, right). It normalises before each block (Xiong et al., 2020, "On Layer
Normalization in the Transformer Architecture").

x = sqrt(W) embed(w) + position
per layer: x += self(norm(x));  x += cross(norm(x), grid);  x += feed(norm(x))
p(w_t+1) = softmax(E norm(x_t) + b), with E the embedding itself when `tied` (Press and Wolf, 2017)

W width, N heads of W / N, S positions that are attended to.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.core.ranges import Dropout, EvenWidth, HeadsOfWidth, Layers, Width
from pipeline.decoders.shared import layers
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.parallel import ParallelDecoder
from pipeline.features.features import Features


class Decoder(ParallelDecoder):
    """A transformer whose positions are sinusoids, so no caption is too long.

    State, per layer n: `words<n>` holds keys and values of the words read so far. It grows by one
    position per step, so all rows of a state have read equally many words. `image<n>` holds those
    of the grid, computed once per image. Both are (B, 2, N, S, W / N).

    Args:
        tied: use one matrix for reading and for writing words.
    """

    reads = "grid"
    attends = True
    layers: Any  # a ModuleList; type checkers do not know that its items are Layers

    def __init__(
        self,
        sizes: Sizes,
        *,
        width: EvenWidth = 512,
        heads: HeadsOfWidth = 8,
        layers: Layers = 4,
        feedforward: Width = 2048,
        dropout: Dropout = 0.1,
        tied: bool = False,
    ):
        super().__init__()
        if heads < 1 or width % heads or width % 2:
            raise UserError(
                f"args of a transformer: width {width} must be even and a multiple of "
                f"heads {heads}: change one of them"
            )
        self.image = nn.Sequential(nn.Linear(sizes.grid, width), nn.LayerNorm(width))
        self.embedding = nn.Embedding(sizes.vocabulary, width)
        nn.init.normal_(
            self.embedding.weight, std=width**-0.5
        )  # as an output matrix, it gives logits of variance 1
        self.layers = nn.ModuleList(
            Layer(width, heads, feedforward, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = None if tied else nn.Linear(width, sizes.vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        self.dropout = nn.Dropout(dropout)

    def start(self, f: Features) -> State:
        grid = self.image(f.grid)
        image = {f"image{n}": layer.cross.memory(grid) for n, layer in enumerate(self.layers)}
        return image | {
            f"words{n}": image[f"image{n}"][:, :, :, :0] for n in range(len(self.layers))
        }

    def unroll(
        self, f: Features, tokens: Tensor, lengths: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, State]:
        """Process all positions at once, under a causal mask."""
        hidden, _ = super().unroll(f, tokens, lengths, rows)
        past_end = torch.arange(tokens.shape[1]) >= lengths[:, None]
        return hidden.masked_fill(past_end.to(hidden.device)[..., None], 0.0), {}

    def attention(self, f: Features, tokens: Tensor) -> Tensor:
        """Return the mean over heads and layers.

        No layer is singled out, because each adds to the same sum.
        """
        looks: list[Tensor] = []
        self.run(tokens, self.start(f), looks)
        return torch.stack(looks).mean(0)

    def last_layer(self, hidden: Tensor) -> LastLayer:
        return LastLayer(
            hidden, self.embedding.weight if self.output is None else self.output.weight, self.bias
        )

    def run(
        self, tokens: Tensor, s: State, looks: list[Tensor] | None = None
    ) -> tuple[Tensor, State]:
        """Tokens (B, T) -> hidden (B, T, W) and the next state.

        Either T = 1, or no words have been read yet. `looks`, if given, receives each layer's
        weights over the grid (B, T, P).
        """
        read, width = s["words0"].shape[3], self.embedding.embedding_dim
        x = math.sqrt(width) * self.embedding(tokens) + sinusoids(
            read, tokens.shape[1], width, tokens.device
        )
        x, words = self.dropout(x), {}
        for n, layer in enumerate(self.layers):
            x, words[f"words{n}"] = layer(x, s[f"words{n}"], s[f"image{n}"], looks)
        return self.norm(x), s | words


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.words, self.cross = Attention(width, heads, dropout), Attention(width, heads, dropout)
        self.feed = nn.Sequential(
            nn.Linear(width, feedforward),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, words: Tensor, image: Tensor, looks: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """New positions (B, T, W) -> (B, T, W), and the memory of all words.

        `words` and `image` are the memories of the earlier words and of the image.
        """
        y = self.norms[0](x)
        words = torch.cat([words, self.words.memory(y)], 3)
        x = x + self.dropout(self.words(y, words, causal=x.shape[1] > 1))
        x = x + self.dropout(self.cross(self.norms[1](x), image, looks=looks))
        return x + self.dropout(self.feed(self.norms[2](x))), words


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be kept.

    They are called the memory, and are computed apart from the queries.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.keys_and_values = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def memory(self, x: Tensor) -> Tensor:
        """(B, S, W) -> (B, 2, N, S, W / N)."""
        return self.keys_and_values(x).unflatten(-1, (2, self.heads, -1)).permute(0, 2, 3, 1, 4)

    def forward(
        self, x: Tensor, memory: Tensor, causal: bool = False, looks: list[Tensor] | None = None
    ) -> Tensor:
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, T, W / N)
        keys, values = memory.unbind(1)
        if looks is not None:
            looks.append(layers.attention_weights(query, keys, causal))
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            query, keys, values, dropout_p=dropout, is_causal=causal
        )
        return self.output(out.transpose(1, 2).flatten(2))


def sinusoids(first: int, count: int, width: int, device: torch.device) -> Tensor:
    """Return (count, W) for positions from `first` on.

    The values are sin and cos of position / 10000^(2i / W), alternating (section 3.5).
    """
    position = torch.arange(first, first + count, device=device, dtype=torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angle = position[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
