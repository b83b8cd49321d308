"""The contract of every decoder: start / step / forward / loss.

B images or rows, R caption rows, T steps, V words, P grid positions, D grid width, H hidden width.
A decoder gives `start`, `advance` and `project`; it may override `unroll` with something faster, never different.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.decoders.shared.tokenizers import Tokenizer, word_tokenizer
from pipeline.decoders.shared.word_vectors import fill_embedding
from pipeline.encoders.shared.base import Features

State = dict[str, Tensor]
"batch first, so that a beam reorders it with index_select(0, ...)"


@dataclass(frozen=True)
class Sizes:
    """What a decoder must fit: widths of its input and output, never written into a decoder."""

    grid: int
    pooled: int
    vocabulary: int
    known: dict[str, Any] = field(default_factory=dict)
    "what `Decoder.read` found beside the tokenizer, as JSON: a loaded model is built from it, not from the files again"


@dataclass(frozen=True)
class Loss:
    """Mean cross-entropy per token (nats), and regularisers by name, never added into it."""

    cross_entropy: Tensor
    terms: dict[str, Tensor]
    tokens: int

    @property
    def total(self) -> Tensor:
        return self.cross_entropy + sum(self.terms.values())


class Decoder(nn.Module):
    summed: ClassVar[tuple[str, ...]] = ()
    "names in State that the regulariser needs at the last step of each row"
    shared: ClassVar[tuple[str, ...]] = ()
    "names in State of an image, of which `advance` also takes one row for every K rows that follow each other: K beams"
    attends: ClassVar[bool] = False
    "over the grid's positions, of which there must then be more than one"
    published: str = ""
    "the model that `load_pretrained` takes all weights from, so that it captions without training; empty: it does not"

    @classmethod
    def read(cls, texts: Iterable[str], min_count: int, args: dict[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
        """Before training: the tokenizer for captions `texts`, and `Sizes.known`. `args` are those of the constructor.

        Args:
            texts: read from disk whenever they are iterated over.
        """
        return word_tokenizer(texts, min_count), {}

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        """Weights that were learned elsewhere; called once, before training, never when a trained model is loaded."""

    def start(self, f: Features) -> State:
        """State of each image before the first word (B, ...); all that depends on the image alone is computed here."""
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """What `advance` reads (..., E) in place of tokens (...): all that depends on a word alone, for many words at once."""
        return tokens

    def advance(self, words: Tensor, s: State) -> tuple[Tensor, State]:
        """One step: what `embed` made of tokens (B,) -> hidden (B, H) and the next state."""
        raise NotImplementedError

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden (..., H) -> logits (..., V)."""
        raise NotImplementedError

    def judge(self, f: Features, texts: list[str], rows: Tensor) -> Tensor | None:
        """How well captions fit their images, of which `rows` (R,) names one each: (R,), the higher the better.

        Sampling keeps the best. None: the likeliest is kept.
        """
        return None

    def attention(self, f: Features, tokens: Tensor) -> Tensor | None:
        """Teacher forcing: tokens (B, T) -> where the decoder looks for the word after each, (B, T, P); None: it does not look.

        Weights over the positions of a square map of the picture, row by row, none negative, of sum 1. A decoder that attends
        keeps those of its last step (B, P) in the state as `alpha`, or overrides this.
        """
        if not self.attends:
            return None
        state, alphas = self.start(f), []
        for words in self.embed(tokens).unbind(1):
            _, state = self.advance(words, state)
            alphas.append(state["alpha"])
        return torch.stack(alphas, 1)

    def regularisers(self, last: State) -> dict[str, Tensor]:
        """Named terms of the loss from the `summed` states of all rows."""
        return {}

    def step(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B,) -> logits (B, V) and the next state."""
        hidden, s = self.advance(self.embed(tokens), s)
        return self.project(hidden), s

    def forward(self, f: Features, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """Teacher forcing: tokens (R, T) -> logits (R, T, V). `rows` (R,) names each row's image; without it, R = B."""
        lengths = torch.full((len(tokens),), tokens.shape[1])
        return self.project(self.unroll(f, tokens, lengths, rows)[0])

    def unroll(self, f: Features, tokens: Tensor, lengths: Tensor, rows: Tensor | None) -> tuple[Tensor, State]:
        """Hidden (R, T, H), zero past a row's length, and the `summed` states at each row's last step.

        Rows are sorted by length so that each step runs only those that still have a word.
        """
        order = torch.argsort(lengths, descending=True, stable=True)
        alive = (lengths[order][:, None] > torch.arange(tokens.shape[1], device=lengths.device)).sum(0).tolist()
        order = order.to(tokens.device)
        state = pick_rows(self.start(f), order if rows is None else rows[order])
        tokens = tokens[order]
        words = self.embed(torch.cat([tokens[:n, t] for t, n in enumerate(alive)])).split(alive)
        hiddens: list[Tensor] = []
        ended: list[State] = []
        with one_gradient():
            for n, word in zip(alive, words, strict=True):
                if n < len(next(iter(state.values()))):
                    ended.append({k: state[k][n:] for k in self.summed})
                    state = {k: v[:n] for k, v in state.items()}
                if n == 0:
                    break
                hidden, state = self.advance(word, state)
                hiddens.append(F.pad(hidden, (0, 0, 0, len(tokens) - n)))
        ended.append({k: state[k] for k in self.summed})
        hiddens += [torch.zeros_like(hiddens[0])] * (tokens.shape[1] - len(hiddens))
        back = torch.argsort(order)
        last = {k: torch.cat([e[k] for e in reversed(ended)])[back] for k in self.summed}
        return torch.stack(hiddens, 1)[back], last

    def loss(
        self,
        f: Features,
        tokens: Tensor,
        mask: Tensor,
        rows: Tensor | None = None,
        smoothing: float = 0.0,
        inputs: Tensor | None = None,
    ) -> Loss:
        """Tokens and mask (R, T + 1), <start> first. The vocabulary product runs once, over the unpadded positions.

        `inputs` (R, T) are what the decoder reads where that is not the tokens themselves (scheduled sampling).
        """
        valid = mask[:, 1:]
        hidden, last = self.unroll(f, tokens[:, :-1] if inputs is None else inputs, valid.sum(1).cpu(), rows)
        logits = self.project(hidden[valid])
        cross_entropy = F.cross_entropy(logits.float(), tokens[:, 1:][valid], label_smoothing=smoothing)
        return Loss(cross_entropy, self.regularisers(last), len(logits))


def load_words(embedding: nn.Embedding, tokenizer: Tokenizer, vectors: str, tune: bool) -> None:
    """Word vectors from a file in GloVe's format, where `vectors` names one; says how many words it knew."""
    if vectors:
        found = fill_embedding(embedding, tokenizer, vectors, tune)
        print(f"{vectors}: {found} of {embedding.num_embeddings} words found, the others drawn at random", flush=True)


def attention_weights(query: Tensor, keys: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """What scaled_dot_product_attention keeps to itself: (R, T, S), the mean over heads.

    Args:
        query: (R, N, T, d) of N heads.
        keys: (R, N, S, d); if causal, the last T are those of the queries' own positions.
    """
    scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        t, s = scores.shape[-2:]
        later = torch.ones(t, s, dtype=torch.bool, device=scores.device).triu(s - t + 1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.float().softmax(-1).mean(1)


def pick_rows(state: State, rows: Tensor) -> State:
    return {name: value.index_select(0, rows) for name, value in state.items()}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear of x (n, E) in a step of `unroll`, whose weight then gets its gradient from all steps at once."""
    opened = OPENED.get()
    if opened is None or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.linear(x, weight, bias)
    key = (weight.data_ptr(), weight.shape)
    if key not in opened:
        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weight.dtype
        weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
        pairs: Pairs = []
        opened[key] = _Ticket.apply(weight, bias, pairs), weight.detach(), None if bias is None else bias.detach(), pairs
    ticket, weight, bias, pairs = opened[key]
    return _Product.apply(x.to(weight.dtype), ticket, weight, bias, pairs)


@contextmanager
def one_gradient() -> Iterator[None]:
    """Within it, `linear` keeps what a weight's gradient is made of until the last of its products has been gone back through.

    A product per step would write a gradient as large as the weight each time, to be added to the others.
    """
    token = OPENED.set({})
    try:
        yield
    finally:
        OPENED.reset(token)


Pairs = list[tuple[Tensor, Tensor]]
"inputs (n, E) of a weight's products and gradients of what came out (n, H)"
OPENED: ContextVar[dict[Any, tuple[Tensor, Tensor, Tensor | None, Pairs]] | None] = ContextVar("opened", default=None)
"by weight: its ticket, itself, its bias and the pairs that were kept"


class _Ticket(torch.autograd.Function):
    """A number that all products of a weight depend on, so that its gradient is asked for after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, pairs: Pairs) -> Tensor:
        ctx.pairs, ctx.has_bias = pairs, bias is not None
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        inputs, gradients = (torch.cat(parts) for parts in zip(*ctx.pairs, strict=True))
        ctx.pairs.clear()
        return gradients.T @ inputs, gradients.sum(0) if ctx.has_bias else None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ticket: Tensor, weight: Tensor, bias: Tensor | None, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        ctx.pairs.append((x, gradient))
        return gradient @ weight, weight.new_zeros(()), None, None, None


def energies(keys: Tensor, query: Tensor, weight: nn.Module) -> Tensor:
    """Additive attention `weight(tanh(keys + query))`: keys (A, P, H), query (A * K, H) -> (A * K, P)."""
    query = query.unflatten(0, (keys.shape[0], -1))  # len() would be a constant in an exported graph
    out: Tensor = weight((keys[:, None] + query[:, :, None]).tanh_())
    return out.squeeze(-1).flatten(0, 1)


def contexts(weights: Tensor, grid: Tensor) -> Tensor:
    """Weighted sums over positions: weights (A * K, P), grid (A, P, D) -> (A * K, D)."""
    return torch.bmm(weights.to(grid.dtype).unflatten(0, (grid.shape[0], -1)), grid).flatten(0, 1)


def words_gates(cell: nn.LSTMCell, words: Tensor) -> Tensor:
    """The words' part (..., 4H) of what an LSTM cell sums up, biases included; its input is [words (..., E), context]."""
    return F.linear(words, cell.weight_ih[:, : words.shape[-1]], cell.bias_ih + cell.bias_hh)


def lstm_cell(cell: nn.LSTMCell, words: Tensor, context: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """`cell([word, context], (h, c))`, given `words_gates` (B, 4H), context (B, D), h and c (B, H)."""
    gates = words + linear(context, cell.weight_ih[:, -context.shape[-1] :]) + linear(h, cell.weight_hh)
    take, keep, new, give = gates.chunk(4, -1)
    c = torch.sigmoid(keep) * c + torch.sigmoid(take) * torch.tanh(new)
    return torch.sigmoid(give) * torch.tanh(c), c
