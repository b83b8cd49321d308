"""The interface of every decoder: start / step / forward / loss.

B images or rows, R caption rows, T steps, V words, P grid positions, D grid width, H hidden width.

A decoder implements `start`, `advance` and `project`. It may override `unroll` with a faster
version, but not with a different result. It may implement `last_layer` instead of `project`; a loss
then need not hold all logits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.decoders.shared.deferred_gradient import deferred_gradients
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.tokenizers import Tokenizer, word_tokenizer
from pipeline.features.features import Features, Keep

# Batch first, so that a beam can reorder it with index_select(0, ...).
State = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """The widths of a decoder's input and output, which it must fit. No decoder hard-codes them."""

    grid: int
    pooled: int
    vocabulary: int
    known: dict[str, Any] = field(default_factory=dict)
    """What `Decoder.read` found besides the tokenizer, as JSON. A loaded model is built from it,
    without reading the files again."""


@dataclass(frozen=True)
class Loss:
    """Mean cross-entropy per token (nats), and regularisers by name. They are never added into
    it."""

    cross_entropy: Tensor
    terms: dict[str, Tensor]
    tokens: int
    counts: dict[str, int] = field(default_factory=dict)
    "Number of captions that a term is a mean over. Terms that are not named are means over tokens."

    @property
    def total(self) -> Tensor:
        return self.cross_entropy + sum(self.terms.values())


class Decoder(nn.Module):
    reads: ClassVar[Keep] = "both"
    """What `start` reads of the features, which need to hold nothing else. Each decoder file states
    it, because it is read from there without importing torch."""
    summed: ClassVar[tuple[str, ...]] = ()
    "Names in State that the regulariser needs at the last step of each row."
    shared: ClassVar[tuple[str, ...]] = ()
    """Names in State that belong to an image. Of these, `advance` also takes one row for every K
    consecutive rows (K beams)."""
    attends: ClassVar[bool] = False
    "Whether the decoder attends to the grid's positions. The grid must then have more than one."
    published: str = ""
    """The model that `load_pretrained` takes all weights from, so that it captions without
    training. Empty if it takes none."""

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return the tokenizer for the captions `texts`, and `Sizes.known`. Called before training.

        Args:
            texts: read from disk whenever they are iterated over.
            args: arguments of the constructor.
        """
        return word_tokenizer(texts, min_count), {}

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        """Load weights that were learned elsewhere.

        Called once, before training, and never when a trained model is loaded.
        """

    def saved(self) -> list[str]:
        """Return the names in `state_dict()` that a model folder and a checkpoint hold."""
        return list(self.state_dict())

    def load_base(self) -> None:
        """Load the published weights that no model folder holds.

        Called when a trained model is loaded, after its own weights.
        """

    def start(self, f: Features) -> State:
        """Return the state of each image before the first word (B, ...).

        Everything that depends on the image alone is computed here.
        """
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """Return what `advance` reads (..., E) in place of tokens (...).

        Everything that depends on a word alone is computed here, for many words at once.
        """
        return tokens

    def advance(self, words: Tensor, s: State) -> tuple[Tensor, State]:
        """Do one step: output of `embed` for tokens (B,) -> hidden (B, H) and the next state."""
        raise NotImplementedError

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden (..., H) -> logits (..., V)."""
        return self.last_layer(hidden).logits()

    def last_layer(self, hidden: Tensor) -> LastLayer:
        """Return `project` as a layer whose product with the vocabulary is not carried out yet."""
        return LastLayer(self.project(hidden))

    def judge(self, f: Features, texts: list[str], rows: Tensor) -> Tensor | None:
        """Return how well captions fit their images: (R,), higher is better.

        `rows` (R,) gives the image of each caption. Sampling keeps the best caption of an image. If
        None is returned, it keeps the likeliest.
        """
        return None

    def attention(self, f: Features, tokens: Tensor) -> Tensor | None:
        """Return where the decoder looks under teacher forcing: tokens (B, T) -> weights (B, T, P).

        The weights at t belong to the word after token t. They cover the positions of a square map
        of the picture, row by row; none is negative, and their sum is 1. A decoder that attends
        keeps the weights of its last step (B, P) in the state as `alpha`, or overrides this method.

        Returns:
            the weights; None if the decoder does not attend.
        """
        if not self.attends:
            return None
        state, alphas = self.start(f), []
        for words in self.embed(tokens).unbind(1):
            _, state = self.advance(words, state)
            alphas.append(state["alpha"])
        return torch.stack(alphas, 1)

    def regularisers(self, last: State) -> dict[str, Tensor]:
        """Return named terms of the loss from the `summed` states of all rows. Each is a mean over
        rows."""
        return {}

    def step(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B,) -> logits (B, V) and the next state."""
        hidden, s = self.advance(self.embed(tokens), s)
        return self.project(hidden), s

    def forward(self, f: Features, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """Teacher forcing: tokens (R, T) -> logits (R, T, V).

        `rows` (R,) gives the image of each row; without it, R = B.
        """
        lengths = torch.full((len(tokens),), tokens.shape[1])
        return self.project(self.unroll(f, tokens, lengths, rows)[0])

    def unroll(
        self, f: Features, tokens: Tensor, lengths: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, State]:
        """Return hidden (R, T, H), zero after a row's end, and the `summed` states at each row's
        last step.

        Rows are sorted by length, the longest first. The rows that still have a word are then
        always the first ones, and each step runs only these:

            captions                            sorted             rows that run
            row 0   <start> a dog               row 1   A B C D    step 0   A E I   3
            row 1   <start> two cats sit   ->   row 0   E F G      step 1   B F J   3
            row 2   <start> cats                row 2   I J        step 2   C G     2
                                                                   step 3   D       1

        After step 1, row 2 has ended. Its state is cut off from the end of the batch and kept. The
        kept states therefore run from the shortest row to the longest, and are joined backwards.
        """
        steps = torch.arange(tokens.shape[1], device=lengths.device)
        running = (lengths[:, None] > steps).sum(0).tolist()  # rows with a word, at each step
        order = torch.argsort(lengths, descending=True, stable=True).to(tokens.device)
        tokens = tokens[order]
        state = pick_rows(self.start(f), order if rows is None else rows[order])
        words = self.embed(torch.cat([tokens[:n, t] for t, n in enumerate(running)])).split(running)
        hiddens: list[Tensor] = []
        ended: list[State] = []
        with deferred_gradients():
            for n, word in zip(running, words, strict=True):
                if n < row_count(state):
                    ended.append({k: state[k][n:] for k in self.summed})
                    state = {k: v[:n] for k, v in state.items()}
                if n == 0:
                    break
                hidden, state = self.advance(word, state)
                hiddens.append(F.pad(hidden, (0, 0, 0, len(tokens) - n)))
        ended.append({k: state[k] for k in self.summed})
        hiddens += [torch.zeros_like(hiddens[0])] * (tokens.shape[1] - len(hiddens))
        as_given = torch.argsort(order)
        last = {k: torch.cat([e[k] for e in reversed(ended)])[as_given] for k in self.summed}
        return torch.stack(hiddens, 1)[as_given], last

    def loss(
        self,
        f: Features,
        tokens: Tensor,
        mask: Tensor,
        rows: Tensor | None = None,
        smoothing: float = 0.0,
        inputs: Tensor | None = None,
    ) -> Loss:
        """Return the loss for tokens and mask (R, T + 1), <start> first.

        The product with the vocabulary runs once, over the unpadded positions, and holds few logits
        at once (last_layer.py).

        Args:
            inputs: (R, T), what the decoder reads instead of the tokens (scheduled sampling).
        """
        valid = mask[:, 1:]
        hidden, last = self.unroll(
            f, tokens[:, :-1] if inputs is None else inputs, valid.sum(1).cpu(), rows
        )
        targets = tokens[:, 1:][valid]
        cross_entropy = self.last_layer(hidden[valid]).cross_entropy(targets, smoothing)
        terms = self.regularisers(last)
        return Loss(cross_entropy, terms, len(targets), dict.fromkeys(terms, len(tokens)))


def pick_rows(state: State, rows: Tensor) -> State:
    return {name: value.index_select(0, rows) for name, value in state.items()}


def row_count(state: State) -> int:
    return len(next(iter(state.values())))
