"""The values that an argument may have, beside its type: `hidden: Width = 512`.

Upper bounds are far above anything sensible; they turn a slip of the keyboard into one line before
the graph starts, instead of an overflow or a full memory inside it. NaN and infinity lie outside
every range.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field


@dataclass(frozen=True)
class Divides:
    """The value must divide another argument of the same call."""

    other: str

    def problem(self, value: int, arguments: dict[str, Any]) -> str | None:
        """What is wrong with the value beside the other arguments, or None."""
        whole = arguments.get(self.other)
        if not isinstance(whole, int) or whole % value == 0:
            return None
        return f"should divide {self.other} {whole}"


Natural = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=65_536)]
"units of a layer, dimensions of a vector"
EvenWidth = Annotated[int, Field(ge=2, le=65_536, multiple_of=2)]
"half sine, half cosine"
HeadsOfWidth = Annotated[int, Field(ge=1, le=65_536), Divides("width")]
Layers = Annotated[int, Field(ge=1, le=1_000)]
Pixels = Annotated[int, Field(ge=1, le=8_192)]
"side of a picture"
Tokens = Annotated[int, Field(ge=1, le=1_024)]
"length of a caption; GPT-2 has 1,024 positions"
Beams = Annotated[int, Field(ge=1, le=999)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"what torch, NumPy and a column of 64-bit integers all take"

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Dropout = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"share of units that are set to 0; 1 would leave none"
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
"of a term in a loss or a ranking; 0 leaves the term out"
Scale = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
"a factor or a divisor"
LearningRate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Exponent = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
