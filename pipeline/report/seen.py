"""What the pretrained models of a row had seen, in training elsewhere, of the data set that the row
is scored on. seen_in_training.yaml holds what is known, each claim with its source."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.plain import problems
from pipeline.core.yaml12 import read_yaml
from pipeline.report.table import Column
from pipeline.results.result import Result
from pipeline.results.values import SEEN

FILE = Path(__file__).with_name("seen_in_training.yaml")
CAPTIONS, PICTURES, UNKNOWN, NO_CAPTIONS, NOTHING = MARKS = (
    "captions",
    "pictures",
    "unknown",
    "no captions",
    "no",
)
"what a cell says, from the most that a model can have seen to nothing"
TOLD = (CAPTIONS, PICTURES, UNKNOWN)
"for one of these a table has the column"
Answer = Literal["yes", "no", "unknown"]
Texts = Annotated[list[str], Field(min_length=1)]


class Claim(BaseModel, extra="forbid"):
    of: Texts
    "names of `data`"
    pictures: Answer
    captions: Answer
    source: Annotated[str, Field(min_length=1)]

    @property
    def mark(self) -> str:
        """One of `MARKS`."""
        if self.captions == "yes":
            return CAPTIONS
        if self.pictures == "yes":
            return PICTURES
        if self.captions == "unknown":
            return UNKNOWN
        return NO_CAPTIONS if self.pictures == "unknown" else NOTHING


class Entry(BaseModel, extra="forbid"):
    models: Texts
    "patterns of names"
    claims: Annotated[list[Claim], Field(min_length=1)]


class Known(BaseModel, extra="forbid"):
    """The file."""

    data: dict[str, Texts]
    "data set -> patterns of its names in params.yaml"
    models: list[Entry]

    def family(self, data: str) -> str:
        """The data set of `data` that a name is of; '' if it is of none."""
        return next((name for name, those in self.data.items() if _fits(data, those)), "")

    def claim(self, model: str, family: str) -> Claim | None:
        """None: no entry fits the model."""
        entry = next((entry for entry in self.models if _fits(model, entry.models)), None)
        return next((c for c in entry.claims if family in c.of), None) if entry else None


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


@cache
def read_known(file: Path = FILE) -> Known:
    """Raises:
    UserError: a key is missing or unknown, an answer is none, or a model lacks a claim of a
        data set or has two.
    """
    data = read_yaml(file)
    try:
        known = Known.model_validate(data, strict=True)
    except ValidationError as error:
        raise UserError(f"{file}: {'; '.join(p.told() for p in problems(error, data))}") from None
    for entry in known.models:
        told = sorted(name for claim in entry.claims for name in claim.of)
        if told != sorted(known.data):
            raise UserError(
                f"{file}: models {', '.join(entry.models)}: claims of {', '.join(told)}: "
                f"give one of each of {', '.join(known.data)}"
            )
    return known


class Part(NamedTuple):
    """A pretrained model of a row."""

    model: str
    family: str
    mark: str
    source: str


def parts(result: Result) -> list[Part]:
    """None of a row whose data set is in no claim."""
    known = read_known()
    family = known.family(result.data)
    if not family:
        return []
    absent = f"none, the model is not in pipeline/report/{FILE.name}"
    claims = {model: known.claim(model, family) for model in result.pretrained}
    return [
        Part(model, family, claim.mark if claim else UNKNOWN, claim.source if claim else absent)
        for model, claim in claims.items()
    ]


def seen(result: Result) -> str:
    """The most that any of its models is known to have seen; '-' of a baseline, and of a row whose
    data set is in no claim."""
    if not read_known().family(result.data):
        return "-"
    return min((part.mark for part in parts(result)), key=MARKS.index, default=NOTHING)


def columns(rows: Iterable[Result]) -> list[Column]:
    """The column, where a row says more than that no caption was seen."""
    return [Column(SEEN)] if any(seen(row) in TOLD for row in rows) else []


def legend(rows: Iterable[Result]) -> list[str]:
    """What the column says, and the source of each claim in it; [] without the column."""
    told = dict.fromkeys(part for row in rows for part in parts(row) if part.mark in TOLD)
    if not told:
        return []
    claims = [
        f"{SEEN}, {part.model} on {part.family}: {part.mark}. Source: {part.source}."
        for part in told
    ]
    return [*LEGEND, *claims]


LEGEND = [
    f"{SEEN}: what the row's pretrained models had seen of this data set before they came here, in "
    "any of its splits; the most that is known of any of them. Training here, on the train split, "
    "does not count.",
    f"{SEEN}: captions, its captions; pictures, its pictures and, as far as is known, no caption; "
    "unknown, no source tells; no captions, none of its captions, and of its pictures no source "
    "tells; no, neither. Scores of images that were seen say little of new ones.",
]
