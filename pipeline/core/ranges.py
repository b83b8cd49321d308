"""The values that an argument may have, beside its type: `hidden: Width = 512`.

Upper bounds are far above anything sensible; they turn a slip of the keyboard into one line before
the graph starts, instead of an overflow or a full memory inside it. NaN and infinity lie outside
every range. Nothing but the standard library is imported: decoders travel with exported models.
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
    """What a text looks like: a pattern, and the words by which messages tell it."""

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
        """What is wrong with the value beside the other arguments, or None."""
        whole = arguments.get(self.other)
        if not isinstance(whole, int) or whole % value == 0:
            return None
        return f"should divide {self.other} {whole}"


@dataclass(frozen=True, eq=False)
class Keys:
    """A mapping whose keys, none of which is required, have types of their own."""

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
Width = Annotated[int, Range(ge=1, le=65_536)]
"units of a layer, dimensions of a vector"
EvenWidth = Annotated[int, Range(ge=2, le=65_536, multiple_of=2)]
"half sine, half cosine"
HeadsOfWidth = Annotated[int, Range(ge=1, le=65_536), Divides("width")]
Layers = Annotated[int, Range(ge=1, le=1_000)]
Pixels = Annotated[int, Range(ge=1, le=8_192)]
"side of a picture"
Tokens = Annotated[int, Range(ge=1, le=1_024)]
"length of a caption; GPT-2 has 1,024 positions"
Beams = Annotated[int, Range(ge=1, le=999)]
Seed = Annotated[int, Range(ge=0, lt=2**63)]
"what torch, NumPy and a column of 64-bit integers all take"

Share = Annotated[float, Range(ge=0, le=1)]
Cosine = Annotated[float, Range(ge=-1, le=1.1)]
"a threshold for a cosine; above 1, nothing passes it"
Dropout = Annotated[float, Range(ge=0, lt=1)]
"share of units that are set to 0; 1 would leave none"
Weight = Annotated[float, Range(ge=0, le=1e6)]
"of a term in a loss or a ranking; 0 leaves the term out"
Scale = Annotated[float, Range(gt=0, le=1e6)]
"a factor or a divisor"
LearningRate = Annotated[float, Range(gt=0, le=100)]
Exponent = Annotated[float, Range(ge=0, le=10)]
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
"of an adapter of low rank"
