"""What every encoder gives: B images, P grid positions, D dimensions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Features:
    grid: "Tensor"  # (B, P, D)
    pooled: "Tensor"  # (B, D')

    def __len__(self) -> int:
        return len(self.pooled)

    def select(self, index: "Tensor") -> "Features":
        return Features(self.grid.index_select(0, index), self.pooled.index_select(0, index))


class Encoder(Protocol):
    """A frozen network. `transform` runs in decoding threads; calls run on the device."""

    grid_dim: int
    pooled_dim: int
    positions: int

    def transform(self, image: "Image") -> "Tensor": ...  # (3, S, S) uint8

    def __call__(self, pixels: "Tensor") -> Features: ...  # (B, 3, S, S) uint8

    def to(self, device: str) -> "Encoder": ...
