"""Ranges of values for arguments, used as their types: `hidden: Width = 512`.

Upper bounds are far above any sensible value. They turn a typo into a one-line error before the
graph starts, instead of an overflow or a full memory while it runs. NaN and infinity are outside
every range. Only the standard library is imported, because decoders are shipped with exported
models.
"""

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for pydantic: ge is >=, gt >, le <=, lt <."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    multiple_of: int | None = None

    def __get_pydantic_core_schema__(self, kind: type, handler: Any) -> dict[str, Any]:
        bounds = {name: value for name, value in vars(self).items() if value is not None}
        finite = {"allow_inf_nan": False} if kind is float else {}
        return {**handler(kind), **bounds, **finite}


@dataclass(frozen=True)
class Form:
    """The form of a text: a pattern, and the words that describe it in messages."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, kind: type, handler: Any) -> dict[str, Any]:
        return {
            "type": "custom-error",
            "schema": {**handler(kind), "pattern": self.pattern},
            "custom_error_type": "form",
            "custom_error_message": self.words,
        }


@dataclass(frozen=True)
class Divides:
    """The value must divide another argument of the same call."""

    other: str

    def problem(self, value: int, arguments: dict[str, Any]) -> str | None:
        """Return what is wrong with the value given the other arguments, or None."""
        whole = arguments.get(self.other)
        if not isinstance(whole, int) or whole % value == 0:
            return None
        return f"should divide {self.other} {whole}"


@dataclass(frozen=True, eq=False)
class Keys:
    """A mapping whose keys are all optional and have their own types. No other keys are allowed."""

    types: dict[str, Any]

    def __get_pydantic_core_schema__(self, kind: type, handler: Any) -> dict[str, Any]:
        fields = {
            name: {
                "type": "typed-dict-field",
                "schema": handler.generate_schema(each),
                "required": False,
            }
            for name, each in self.types.items()
        }
        return {"type": "typed-dict", "fields": fields, "extra_behavior": "forbid"}


Natural = Annotated[int, Range(ge=0, le=10**9)]
Positive = Annotated[int, Range(ge=1, le=10**9)]
# Units of a layer, or dimensions of a vector.
Width = Annotated[int, Range(ge=1, le=65_536)]
# Half of the dimensions are sines, half are cosines.
EvenWidth = Annotated[int, Range(ge=2, le=65_536, multiple_of=2)]
HeadsOfWidth = Annotated[int, Range(ge=1, le=65_536), Divides("width")]
Layers = Annotated[int, Range(ge=1, le=1_000)]
# Side of a picture in pixels.
Pixels = Annotated[int, Range(ge=1, le=8_192)]
# Length of a caption in tokens; GPT-2 has 1,024 positions.
Tokens = Annotated[int, Range(ge=1, le=1_024)]
Beams = Annotated[int, Range(ge=1, le=999)]
# Values that torch, NumPy and a column of 64-bit integers all accept.
Seed = Annotated[int, Range(ge=0, lt=2**63)]

Share = Annotated[float, Range(ge=0, le=1)]
# Threshold for a cosine; nothing passes a threshold above 1.
Cosine = Annotated[float, Range(ge=-1, le=1.1)]
# Share of units that are set to 0; a share of 1 would leave none.
Dropout = Annotated[float, Range(ge=0, lt=1)]
# Weight of a term in a loss or a ranking; 0 leaves the term out.
Weight = Annotated[float, Range(ge=0, le=1e6)]
# A factor or a divisor.
Scale = Annotated[float, Range(gt=0, le=1e6)]
LearningRate = Annotated[float, Range(gt=0, le=100)]
Exponent = Annotated[float, Range(ge=0, le=10)]
# Settings of a low-rank adapter.
Lora = Annotated[
    dict[str, Any],
    Keys(
        {
            "rank": Width,
            "alpha": Positive,
            "dropout": Dropout,
            "dora": bool,
            "targets": str | list[str],
        }
    ),
]
