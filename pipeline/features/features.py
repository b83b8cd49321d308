"""What an encoder says of images: a vector per position of a grid, and one for the whole
picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Features:
    grid: "Tensor"  # (B, P, D)
    pooled: "Tensor"  # (B, D')

    def __len__(self) -> int:
        return len(self.pooled)

    def select(self, index: "Tensor") -> "Features":
        return Features(self.grid.index_select(0, index), self.pooled.index_select(0, index))
