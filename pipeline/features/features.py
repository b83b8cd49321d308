"""The output of an encoder: one vector per grid position, and one for the whole picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


Part = Literal["grid", "pooled"]
# What a feature set keeps, and what a decoder reads.
Keep = Literal["pooled", "grid", "both"]


def parts(keep: str) -> tuple[Part, ...]:
    """Return the parts that a `Keep` names, the grid first."""
    both: tuple[Part, ...] = ("grid", "pooled")
    return tuple(part for part in both if keep in (part, "both"))


@dataclass(frozen=True)
class Features:
    """Features of B images. A part that was not kept is empty: the grid has no positions (B, 0, D),
    or the pooled vector has no width (B, 0)."""

    grid: "Tensor"  # (B, P, D)
    pooled: "Tensor"  # (B, D')

    def __len__(self) -> int:
        return len(self.pooled)

    def select(self, index: "Tensor") -> "Features":
        return Features(self.grid.index_select(0, index), self.pooled.index_select(0, index))
