"""What the page shows for a picture: each chosen model's caption with its probabilities, as HTML.

This module is independent of the server.
"""

import math
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from captionlab.page.neutral import Wording, neutral_wording
from pipeline.core.errors import UserError, one_line
from pipeline.core.plain import problems
from pipeline.core.registry import nearest

if TYPE_CHECKING:
    from jinja2 import Template
    from PIL.Image import Image

    from pipeline.captioner.captioner import Captioner
    from pipeline.captioning.captions import Alternative

# Models in memory. The least recently used model is dropped first.
KEPT = 3
# Maximum beam width, and maximum number of samples drawn.
WIDEST = 10
# Maximum number of alternatives.
SHOWN = 5
# Pixels of the longer side to which a picture is reduced before its attention maps are made.
SEEN = 480

# Pixels of the longer side of a picture above its cards.
THUMBNAIL = 160


class Decoding(BaseModel):
    """What a person chose. `beam` is for beam search, the fields after it are for sampling."""

    way: Literal["own", "greedy", "beam", "sampling"] = "own"
    beam: Annotated[int, Field(ge=1, le=WIDEST)] = 5
    samples: Annotated[int, Field(ge=1, le=WIDEST)] = 5
    temperature: Annotated[float, Field(ge=0.1, le=2)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1

    @classmethod
    def read(cls, **values: object) -> "Decoding":
        """Return the values as a Decoding; a UserError names the field that is wrong."""
        try:
            return cls(**values)  # type: ignore[arg-type]
        except ValidationError as error:
            raise UserError(problems(error, values)[0].told()) from None

    def keys(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of params.yaml's `decode`: the model's own, with what was chosen."""
        if self.way == "greedy":
            return {**own, "beam": 1, "samples": 0, "alternatives": 1}
        if self.way == "beam":
            return {**own, "beam": self.beam, "samples": 0, "alternatives": min(self.beam, SHOWN)}
        if self.way == "sampling":
            drawn = {"samples": self.samples, "temperature": self.temperature, "seed": self.seed}
            return {**own, **drawn, "alternatives": min(self.samples, SHOWN)}
        return dict(own)


class Shelf:
    """Models by name. They are loaded on first use, and a few of them stay in memory."""

    def __init__(
        self, folders: Mapping[str, Path], load: "Callable[[Path], Captioner]", kept: int = KEPT
    ):
        self.folders, self.kept = dict(folders), kept
        self._load, self._loaded, self._lock = load, OrderedDict[str, "Captioner"](), Lock()

    def get(self, name: str) -> "Captioner":
        """Return the model of this name.

        Raises:
            UserError: the name is unknown, or the model cannot be loaded.
        """
        if name not in self.folders:
            near = nearest(name, self.folders)
            raise UserError(f"unknown model '{name}'{near}: there are {', '.join(self.folders)}")
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
    log_prob: float = 0.0
    word_chance: float = 0.0
    "Geometric mean of the words' probabilities, including the end token."
    score: float = 0.0
    "The number that orders the caption and its alternatives."
    others: "list[Alternative]" = field(default_factory=list)
    "The alternatives, without the caption itself."
    wording: Wording | None = None
    looked: list[tuple[str, str]] = field(default_factory=list)
    """Each word with the address (data:...) of a picture that shows where the decoder looked. Empty
    if the decoder does not attend."""
    seconds: float = 0.0


def answer(shelf: Shelf, model: str, picture: "Image", decoding: Decoding) -> Answer:
    """Return one model's card. If the model cannot be used, only its own card says so."""
    try:
        captioner = shelf.get(model)
        captioner = captioner.decoding_as(**decoding.keys(captioner.decode))
        started = time.monotonic()
        said = captioner.caption([picture])[0]
    except UserError as error:
        return Answer(model, error=one_line(error))
    seconds = time.monotonic() - started
    drawn = (
        f"best of {captioner.decode['samples']} drawn"
        if captioner.decode["samples"]
        else f"beam {captioner.decode['beam']}"
    )
    return Answer(
        model,
        text=said.text,
        decoding="greedy" if drawn == "beam 1" else drawn,
        log_prob=said.log_prob,
        word_chance=math.exp(said.log_prob / max(1, said.tokens)),
        score=said.alternatives[0].score,
        others=said.alternatives[1:],
        wording=neutral_wording(said.text),
        looked=looked_at(captioner, picture, said.words or said.text),
        seconds=seconds,
    )


def looked_at(captioner: "Captioner", picture: "Image", text: str) -> list[tuple[str, str]]:
    """Return `Answer.looked` of a caption. All its words share one scale of brightness."""
    from captionlab.page.heat import overlay
    from pipeline.captioning.attention import grid_shape

    words = captioner.attention(picture, text)
    shape = grid_shape(len(words[0][1])) if words else None
    if shape is None:
        return []
    small = picture.copy()
    small.thumbnail((SEEN, SEEN))
    top = max(max(weights) for _, weights in words)
    seen = {key: getattr(captioner.encoder, key, False) for key in ("crops", "pads")}
    return [
        (word, _address(overlay(small, weights, shape, top=top, **seen))) for word, weights in words
    ]


def _address(picture: "Image") -> str:
    data = BytesIO()
    picture.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + b64encode(data.getvalue()).decode()


@dataclass(frozen=True)
class Section:
    """The answers to one picture."""

    answers: Sequence[Answer] = ()
    error: str = ""
    "Why the picture cannot be used; '' if it can."
    address: str = ""
    "Address (data:...) of a small copy, if there are several pictures to tell apart."


def thumbnail(picture: "Image") -> str:
    """Return the address (data:...) of a small copy."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return _address(small)


def render(sections: Sequence[Section]) -> str:
    return _template().render(sections=sections)


@cache
def _template() -> "Template":
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
