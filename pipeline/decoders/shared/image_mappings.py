"""Networks that turn an image into the first embeddings of a language model (Mokady et al., 2021,
"ClipCap: CLIP prefix for image captioning", section 3).

B images, D' width of their features, k prefix length, E width of the language model, L places.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError


class MlpMapping(nn.Module):
    def __init__(self, pooled: int, width: int, prefix: int):
        super().__init__()
        self.width = width
        self.hidden = nn.Linear(pooled, prefix * width // 2)
        self.output = nn.Linear(prefix * width // 2, prefix * width)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D') -> (B, k, E)"""
        return self.output(torch.tanh(self.hidden(pooled))).unflatten(-1, (-1, self.width))


class TransformerMapping(nn.Module):
    def __init__(
        self, pooled: int, width: int, prefix: int, clip_length: int, layers: int, heads: int
    ):
        super().__init__()
        if width % heads:
            raise UserError(
                f"args.mapping_heads: {heads} does not divide the width of the language "
                f"model, {width}"
            )
        self.clip_length = clip_length
        self.image = nn.Linear(pooled, clip_length * width)
        self.constants = nn.Parameter(torch.randn(prefix, width))
        self.layers = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D') -> (B, k, E), the outputs at the places of the constants."""
        image = self.image(pooled).unflatten(-1, (self.clip_length, -1))
        constants = self.constants.expand(len(image), -1, -1)
        return self.layers(torch.cat([image, constants], 1))[:, self.clip_length :]


class _Block(nn.Module):
    """A transformer block as published.

    It normalises first and has no dropout. Queries, keys and values have no bias, and the
    feed-forward layer has twice the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, L, E)"""
        parts = self.queries_keys_values(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # (B, heads, L, E / heads) each
        attended = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.attended(attended.transpose(1, 2).flatten(2))
        return x + self.feedforward(self.norm_feedforward(x))
