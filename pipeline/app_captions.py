"""What the page shows of a picture: each chosen model's caption with its chances, as HTML. Nothing here knows the server."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import UserError, one_line
from pipeline.neutral import Wording, neutral_wording

if TYPE_CHECKING:
    from jinja2 import Template
    from PIL.Image import Image

    from pipeline.captioner import Captioner
    from pipeline.decode import Caption

KEPT = 3
"models in memory; the one that was not used for longest goes first"
WIDEST = 10
"beam, and samples drawn"
SHOWN = 5
"alternatives"


class Decoding(BaseModel):
    """What a person chose: `beam` is for beam search, what follows for sampling."""

    way: Literal["own", "greedy", "beam", "sampling"] = "own"
    beam: Annotated[int, Field(ge=1, le=WIDEST)] = 5
    samples: Annotated[int, Field(ge=1, le=WIDEST)] = 5
    temperature: Annotated[float, Field(ge=0.1, le=2)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1

    @classmethod
    def read(cls, **values: object) -> "Decoding":
        """Raises a UserError that names the field that is not as it should be."""
        try:
            return cls(**values)  # type: ignore[arg-type]
        except ValidationError as error:
            problem = error.errors()[0]
            raise UserError(f"{problem['loc'][0]}: {problem['msg'].removeprefix('Input ')}") from None

    def keys(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of params.yaml's `decode`: those of the model, but for what was chosen."""
        if self.way == "greedy":
            return {**own, "beam": 1, "samples": 0, "alternatives": 1}
        if self.way == "beam":
            return {**own, "beam": self.beam, "samples": 0, "alternatives": min(self.beam, SHOWN)}
        if self.way == "sampling":
            drawn = {"samples": self.samples, "temperature": self.temperature, "seed": self.seed}
            return {**own, **drawn, "alternatives": min(self.samples, SHOWN)}
        return dict(own)


class Shelf:
    """Models by name, loaded when they are first asked for; a few of them stay."""

    def __init__(self, folders: Mapping[str, Path], load: "Callable[[Path], Captioner]", kept: int = KEPT):
        self.folders, self.kept = dict(folders), kept
        self._load, self._loaded, self._lock = load, OrderedDict[str, "Captioner"](), Lock()

    def get(self, name: str) -> "Captioner":
        """Raises a UserError for an unknown name, or a model that cannot be loaded."""
        if name not in self.folders:
            raise UserError(f"unknown model '{name}': there are {', '.join(self.folders)}")
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self.kept:
                    self._loaded.popitem(last=False)
                self._loaded[name] = self._load(self.folders[name])
            self._loaded.move_to_end(name)
            return self._loaded[name]


@dataclass(frozen=True)
class Answer:
    """A model's card."""

    model: str
    error: str = ""
    text: str = ""
    decoding: str = ""
    word_chance: float = 0.0
    "geometric mean of the words' probabilities, the end counted"
    chance: float = 0.0
    "of the whole caption"
    others: list[tuple[str, float]] = field(default_factory=list)
    "alternatives but for the caption itself, with their chances"
    wording: Wording | None = None
    seconds: float = 0.0


def answer(shelf: Shelf, model: str, picture: "Image", decoding: Decoding) -> Answer:
    """One model's card; a model that cannot be used says so on it and leaves the others theirs."""
    try:
        captioner = copy(shelf.get(model))
        captioner.decode = decoding.keys(captioner.decode)
        started = time.monotonic()
        said = captioner.caption([picture])[0]
    except UserError as error:
        return Answer(model, error=one_line(error))
    return _card(model, said, captioner.decode, time.monotonic() - started)


def _card(model: str, said: "Caption", decode: Mapping[str, Any], seconds: float) -> Answer:
    drawn = f"best of {decode['samples']} drawn" if decode["samples"] else f"beam {decode['beam']}"
    return Answer(
        model,
        text=said.text,
        decoding="greedy" if drawn == "beam 1" else drawn,
        word_chance=math.exp(said.log_prob / max(1, said.tokens)),
        chance=math.exp(said.log_prob),
        others=[(text, math.exp(log_prob)) for text, log_prob in said.alternatives[1:]],
        wording=neutral_wording(said.text),
        seconds=seconds,
    )


def render(answers: Sequence[Answer]) -> str:
    return _template().render(answers=answers)


@cache
def _template() -> "Template":
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    return environment.from_string(Path(__file__).with_name("app.html").read_text(encoding="utf-8"))


def percent(share: float) -> str:
    """Two digits that mean something: 0.1234 -> 12 %, 0.00123 -> 0.12 %; nothing is printed as impossible."""
    if share >= 0.1:
        return f"{100 * share:.0f} %"
    return f"{100 * share:.2g} %" if share >= 0.0001 else "< 0.01 %"
