"""Decoders that read all words of a caption at once, where nothing depends on how many rows still
have a word."""

from torch import Tensor

from pipeline.decoders.shared import contract
from pipeline.decoders.shared.contract import State, pick_rows
from pipeline.features.features import Features


class ParallelDecoder(contract.Decoder):
    """A decoder gives `start`, `run` and `project`."""

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B, T) after what the state has read -> hidden (B, T, H) and the next state."""
        raise NotImplementedError

    def advance(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        hidden, s = self.run(tokens[:, None], s)
        return hidden[:, 0], s

    def unroll(
        self, f: Features, tokens: Tensor, lengths: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, State]:
        """All positions at once. What is past a row's end is computed too, and read by nobody."""
        s = self.start(f)
        return self.run(tokens, s if rows is None else pick_rows(s, rows))[0], {}
