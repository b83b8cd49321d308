"""Decoders that read all words of a caption at once.

Nothing in them depends on how many rows still have a word.
"""

from torch import Tensor

from pipeline.decoders.shared import contract
from pipeline.decoders.shared.contract import State, pick_rows
from pipeline.features.features import Features


class ParallelDecoder(contract.Decoder):
    """A decoder implements `start`, `run` and `project`."""

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B, T) after what the state has read -> hidden (B, T, H) and the next state."""
        raise NotImplementedError

    def advance(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        hidden, s = self.run(tokens[:, None], s)
        return hidden[:, 0], s

    def unroll(
        self, f: Features, tokens: Tensor, lengths: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, State]:
        """Process all positions at once. Those after a row's end are computed too, but nothing
        reads them."""
        s = self.start(f)
        return self.run(tokens, s if rows is None else pick_rows(s, rows))[0], {}
