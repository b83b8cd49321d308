"""What an encoder says of images: a vector per position of a grid, and one for the whole
picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


Part = Literal["grid", "pooled"]
Keep = Literal["pooled", "grid", "both"]
"What a feature set keeps, and what a decoder reads."


def parts(keep: str) -> tuple[Part, ...]:
    """The parts that a `Keep` names, the grid first."""
    both: tuple[Part, ...] = ("grid", "pooled")
    return tuple(part for part in both if keep in (part, "both"))


@dataclass(frozen=True)
class Features:
    """A part that was not kept has no numbers: a grid of no positions (B, 0, D), a vector of no
    width (B, 0)."""

    grid: "Tensor"  # (B, P, D)
    pooled: "Tensor"  # (B, D')

    def __len__(self) -> int:
        return len(self.pooled)

    def select(self, index: "Tensor") -> "Features":
        return Features(self.grid.index_select(0, index), self.pooled.index_select(0, index))
