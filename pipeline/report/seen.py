"""What a row's pretrained models had seen of the evaluated data set in earlier training.

seen_in_training.yaml holds what is known, each claim with its source.
"""

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
from pipeline.results.pretrained import IN_FILE
from pipeline.results.result import Result
from pipeline.results.values import SEEN

FILE = Path(__file__).with_name("seen_in_training.yaml")
# Values of the column, from the most that a model can have seen to nothing.
CAPTIONS, PICTURES, UNKNOWN, NO_CAPTIONS, NOTHING = MARKS = (
    "captions",
    "pictures",
    "unknown",
    "no captions",
    "no",
)
# A table has the column if a row has one of these.
TOLD = (CAPTIONS, PICTURES, UNKNOWN)
Answer = Literal["yes", "no", "unknown"]
Texts = Annotated[list[str], Field(min_length=1)]


class Claim(BaseModel, extra="forbid"):
    of: Texts
    "Data sets, by their names in `data`."
    pictures: Answer
    captions: Answer
    source: Annotated[str, Field(min_length=1)]

    @property
    def mark(self) -> str:
        """Return the claim as one of `MARKS`."""
        if self.captions == "yes":
            return CAPTIONS
        if self.pictures == "yes":
            return PICTURES
        if self.captions == "unknown":
            return UNKNOWN
        return NO_CAPTIONS if self.pictures == "unknown" else NOTHING


class Entry(BaseModel, extra="forbid"):
    models: Texts
    "Patterns of model names."
    claims: Annotated[list[Claim], Field(min_length=1)]


class Known(BaseModel, extra="forbid"):
    """Content of seen_in_training.yaml."""

    data: dict[str, Texts]
    "Data set -> patterns of its names in params.yaml."
    models: list[Entry]

    def family(self, data: str) -> str:
        """Return the data set of `data` that a name belongs to; '' if it belongs to none."""
        return next((name for name, those in self.data.items() if _fits(data, those)), "")

    def claim(self, model: str, family: str) -> Claim | None:
        """Return the claim of the first entry that fits the model. None if no entry fits.

        A file of weights (`file PATH`) fits only patterns of files, whatever its path contains.
        """
        entry = next((entry for entry in self.models if _fits_model(model, entry.models)), None)
        return next((c for c in entry.claims if family in c.of), None) if entry else None


def _fits_model(model: str, patterns: Iterable[str]) -> bool:
    is_file = model.startswith(IN_FILE)
    return _fits(model, [p for p in patterns if p.startswith(IN_FILE) == is_file])


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


@cache
def read_known(file: Path = FILE) -> Known:
    """Return the checked content of the file.

    Raises:
        UserError: a key is missing or unknown, an answer has another value, or a model has no claim
            or two claims about a data set.
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
    """What is known of one pretrained model of a row."""

    model: str
    family: str
    mark: str
    source: str


def parts(result: Result) -> list[Part]:
    """Return a row's pretrained models. Empty if no claim is about its data set."""
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
    """Return the most that any model of the row is known to have seen. '' for a baseline, '-' for a
    data set without claims."""
    if not result.decoding:
        return ""
    if not read_known().family(result.data):
        return "-"
    return min((part.mark for part in parts(result)), key=MARKS.index, default=NOTHING)


def columns(rows: Iterable[Result]) -> list[Column]:
    """Return the column if a row has one of `TOLD`."""
    return [Column(SEEN)] if any(seen(row) in TOLD for row in rows) else []


def legend(rows: Iterable[Result]) -> list[str]:
    """Return lines that explain the column and give the source of each claim.

    Empty if there is no column.
    """
    told = dict.fromkeys(part for row in rows for part in parts(row) if part.mark in TOLD)
    if not told:
        return []
    claims = [
        f"{SEEN}, {part.model} on {part.family}: {part.mark}. Source: {part.source}."
        for part in told
    ]
    return [*LEGEND, *claims]


LEGEND = [
    f"{SEEN}: what the row's pretrained models saw of this data set in earlier training, in any of "
    "its splits; the most that is known of any of them. Training here, on the train "
    "split, does not "
    "count.",
    f"{SEEN}: captions = its captions; pictures = its pictures, and no caption as far as is known; "
    "unknown = no source says; no captions = none of its captions, and no source says whether its "
    "pictures; no = neither. Scores on images that were seen say little about new images.",
]
