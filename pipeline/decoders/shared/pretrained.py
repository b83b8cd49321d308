"""The base of decoders whose network is published for transformers.

It covers how they see a picture and read words. W width of the language part, N heads of W / N, S
positions that are attended to.
"""

from collections.abc import Iterable
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.decoders.shared import frozen_base
from pipeline.decoders.shared import lora as adapters
from pipeline.decoders.shared.contract import Sizes, State, pick_rows
from pipeline.decoders.shared.layers import attention_weights
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features


class Decoder(frozen_base.Decoder):
    """A network that sees a picture once and then reads words, whose keys and values it remembers.

    A decoder's file builds the network from modules of its own (`adopt`), each weight once. It
    implements `start` and `run`, and its `fetch` returns the published weights. The vision
    transformer is its module `encoder`.

    State, per layer n: `words_keys<n>` and `words_values<n>` belong to the words read so far. They
    grow by one position per step, so all rows of a state have read equally many words.
    `image_keys<n>` and `image_values<n>` are computed once per image. All are (B, N, S, W / N).
    """

    mean: Tensor
    std: Tensor
    ids: Tensor
    encoder: Any

    def __init__(self, sizes: Sizes, body: Any, side: int, heads: int, rows: int, start: int):
        """Build the network of `body`.

        Args:
            rows: number of rows of the embedding.
            start: the row that our <start> stands for.
        """
        super().__init__()
        if sizes.grid != 3:
            raise UserError(
                f"{self.name} sees pictures, not a grid {sizes.grid} wide: give it "
                "features of the encoder pixels"
            )
        self.side, self.heads = side, heads
        self.adopt(self, body)
        for colour in ("mean", "std"):
            self.register_buffer(
                colour, torch.tensor(sizes.known[colour]).view(3, 1, 1), persistent=False
            )
        ids = torch.arange(sizes.vocabulary)
        ids[ids >= rows] = start  # padding; no result depends on it
        ids[sizes.known["start"]] = start
        self.register_buffer("ids", ids, persistent=False)

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @staticmethod
    def adopt(module: nn.Module, body: Any) -> None:
        """Make the parts of transformers' model `body` parts of `module`, each weight once."""
        raise NotImplementedError

    def fetch(self) -> Any:
        """Return transformers' model with its published weights; None if the weights stay
        random."""
        raise NotImplementedError

    def run(
        self, ids: Tensor, s: State, captions: "Captions | None", looks: list[Tensor] | None = None
    ) -> tuple[Tensor, State]:
        """Read ids of the model (R, T) after what the state has read -> hidden (R, T, W) and the
        next state.

        Without `captions`, each row has its own image in the state. `looks`, if given, receives
        each layer's weights (R, T, S), those over the image first.
        """
        raise NotImplementedError

    def adapt(
        self,
        body: Any,
        base: str,
        lora: dict[str, Any],
        part: Iterable[nn.Module],
        new: Iterable[nn.Module] = (),
    ) -> None:
        """Insert adapters into the linear layers of `part`, a part of `body`.

        From then on, only the adapters and the modules in `new` are trained.

        Args:
            base: name of the published weights; empty if all weights are random.
            new: modules that the published weights lack.
        """
        self.adapter = adapters.inject(body, nn.ModuleList(part), lora)
        for module in new:
            module.requires_grad_(True)
        if base:
            self.register_base(base, keep=True)

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        weights = self._published()
        if weights and self.adapter is None:
            self.load_state_dict(weights)
        elif weights:
            adapters.load_base(self, weights)
            adapters.renew(self)
            self.base.copy_(self.mark())

    def take_base(self) -> None:
        weights = self._published()
        adapters.load_base(self, {k: v for k, v in weights.items() if k not in self.own})

    def _published(self) -> dict[str, Tensor]:
        """Return the published weights under this decoder's names; {} if there are none."""
        body = self.fetch()
        theirs = nn.Module()
        if body is not None:
            self.adopt(theirs, body)
        return theirs.state_dict()

    def train(self, mode: bool = True) -> "Decoder":
        super().train(mode)
        if self.adapter is not None:
            self.encoder.eval()
        return self

    def advance(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        hidden, s = self.run(self.ids[tokens][:, None], s, None)
        return hidden[:, 0], s

    def unroll(
        self, f: Features, tokens: Tensor, lengths: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, State]:
        """Process all positions of all rows at once, under a causal mask.

        The image's part of the state is not repeated for its rows.
        """
        s = self.start(f)
        if rows is not None:
            s |= pick_rows(
                {name: value for name, value in s.items() if name.startswith("words")}, rows
            )
        hidden, _ = self.run(
            self.ids[tokens], s, None if rows is None else Captions.of(rows, len(f))
        )
        past_end = torch.arange(tokens.shape[1]) >= lengths[:, None]
        return hidden.masked_fill(past_end.to(hidden.device)[..., None], 0.0), {}

    def attention(self, f: Features, tokens: Tensor) -> Tensor:
        """Return the weights over the patches of the model's own vision transformer.

        They are the mean over heads and layers, scaled to a sum of 1 over the patches. Tokens
        before the patches (class and distillation tokens) have no place in the picture and are left
        out.
        """
        s, looks = self.start(f), list[Tensor]()
        self.run(self.ids[tokens], s, None, looks)
        seen = s["image_keys0"].shape[2]
        patches = isqrt(seen) ** 2
        weights = torch.stack(looks).mean(0)[..., seen - patches : seen]
        return weights / weights.sum(-1, keepdim=True)

    def pixels(self, grid: Tensor) -> Tensor:
        """Return (B, P, 3) of 0-255 as normalised pictures (B, 3, side, side)."""
        if grid.shape[1] != self.side**2:
            raise UserError(
                f"{self.name}: this model sees pictures of {self.side} x {self.side} "
                f"pixels, the features have {grid.shape[1]} "
                f"positions: set image_size of the encoder pixels to {self.side}"
            )
        pictures = grid.transpose(1, 2).unflatten(2, (self.side, self.side))
        return (pictures / 255 - self.mean) / self.std

    def places(self, ids: Tensor, s: State, longest: int) -> Tensor:
        """Return the positions (T,) of the next ids (R, T)."""
        read = s["words_keys0"].shape[2]
        if read + ids.shape[1] > longest:
            raise UserError(
                f"{self.name}: this model reads {longest} tokens: lower max_words of the "
                "corpus or decode.max_tokens"
            )
        return torch.arange(read, read + ids.shape[1], device=ids.device)

    def by_head(self, x: Tensor, count: int = 1) -> list[Tensor]:
        """(R, T, count * W) -> count times (R, N, T, W / N)."""
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(count, -1)]

    def read_on(self, s: State, n: int, keys: Tensor, values: Tensor) -> State:
        """Return the words' keys and values of layer n, extended by those of the next words."""
        before = {"keys": (s[f"words_keys{n}"], keys), "values": (s[f"words_values{n}"], values)}
        return {f"words_{what}{n}": torch.cat(parts, 2) for what, parts in before.items()}


class Captions(NamedTuple):
    """R rows as captions of their B images. An image's keys are multiplied once with all its
    captions."""

    image: Tensor  # (R,)
    number: Tensor  # (R,), among the captions of the same image
    shape: tuple[int, int]
    "B, and the largest number of captions of an image."

    @classmethod
    def of(cls, rows: Tensor, images: int) -> "Captions":
        number = (rows[:, None] == rows).tril(-1).sum(1)
        return cls(rows, number, (images, int(number.max()) + 1))

    def join(self, query: Tensor) -> Tensor:
        """(R, N, T, W / N) -> (B, N, captions * T, W / N), zero where an image has fewer
        captions."""
        padded = query.new_zeros(*self.shape, *query.shape[1:]).index_put(
            (self.image, self.number), query
        )
        return padded.transpose(1, 2).flatten(2, 3)

    def part(self, seen: Tensor) -> Tensor:
        """Split what the joined queries saw: (B, captions * T, W) -> (R, T, W)."""
        return seen.unflatten(1, (self.shape[1], -1))[self.image, self.number]


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    dropout: nn.Dropout,
    causal: bool,
    scale: float | None = None,
    looks: list[Tensor] | None = None,
) -> Tensor:
    """Attend with queries (R, N, T, W / N) to positions (R, N, S, W / N) -> (R, T, W).

    If causal, the last T positions are the queries' own. `looks`, if given, receives the weights
    (R, T, S).
    """
    if looks is not None:
        looks.append(attention_weights(query, keys, causal, scale))
    t, s = query.shape[2], keys.shape[2]
    rate = dropout.p if dropout.training else 0.0
    mask = (
        torch.ones(t, s, dtype=torch.bool, device=query.device).tril(s - t)
        if causal and 1 < t < s
        else None
    )
    whole = causal and 1 < t == s
    seen = F.scaled_dot_product_attention(
        query, keys, values, mask, dropout_p=rate, is_causal=whole, scale=scale
    )
    return seen.transpose(1, 2).flatten(2)


def look(
    query: Tensor,
    s: State,
    n: int,
    captions: Captions | None,
    dropout: nn.Dropout,
    scale: float | None = None,
    looks: list[Tensor] | None = None,
) -> Tensor:
    """Cross-attention of layer n: queries (R, N, T, W / N) to their images -> (R, T, W)."""
    query = captions.join(query) if captions else query
    seen = attend(
        query,
        s[f"image_keys{n}"],
        s[f"image_values{n}"],
        dropout,
        causal=False,
        scale=scale,
        looks=looks,
    )
    return captions.part(seen) if captions else seen
