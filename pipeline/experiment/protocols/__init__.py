"""Protocols: the choices that a metric's name leaves open, as data (protocols.yaml)."""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.languages.languages import ABOUT, ENGLISH, find_language

FILE = Path(__file__).with_name("protocols.yaml")
STANDARD = "standard"


@dataclass(frozen=True)
class Protocol:
    name: str
    captions: str
    "Captions to score: own, argmax, or those of a search (greedy, beam-<k>)."
    tokens: str
    about: str
    paper: str = ""
    "Its name in papers.yaml; '' if it has none."

    def of(self, language: str) -> "Protocol":
        """Return the protocol as described for captions in a language.

        Languages other than English have another tokenizer than `ptb`; the description names it.
        """
        if self.tokens != "ptb" or language == ENGLISH:
            return self
        named = ABOUT[find_language(language).tokenizer]
        return replace(self, about=self.about.replace(ABOUT["ptb"], named), paper="")


@cache
def _rows() -> dict[str, dict[str, Any]]:
    from pipeline.core.yaml12 import read_yaml

    rows: dict[str, dict[str, Any]] = read_yaml(FILE)
    return rows


def find_protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    Args:
        name: as in protocols.yaml; for `beam-k`, with a number.

    Raises:
        UserError: there is no such protocol; the message lists the existing ones.
    """
    beam = re.fullmatch(r"beam-([1-9]\d*)", name)
    row = _rows().get("beam-k" if beam else name)
    if row is None or name == "beam-k":
        near = nearest(name, [known for known in _rows() if known != "beam-k"])
        raise UserError(
            f"unknown protocol '{name}'{near}: there are {', '.join(_rows())} (k a number)"
        )
    return Protocol(name=name, **{**row, "captions": name}) if beam else Protocol(name=name, **row)


def of_paper(theirs: str | None) -> str:
    """Return our protocol that equals one of papers.yaml; '' if there is none."""
    return next(
        (name for name, row in _rows().items() if theirs and row.get("paper") == theirs), ""
    )


def tokenise(text: str, tokens: str) -> str:
    """Return one caption tokenised for scoring, without Java; spaces separate its words.

    The tokens that protocols.yaml calls `ptb` are made by scoring/tokens.py.
    """
    if tokens == "spaces":
        return " ".join(text.lower().split())
    if tokens == "letters":
        return " ".join(
            word for word in re.sub("[^a-z]+", " ", text.lower()).split() if len(word) > 1
        )
    raise ValueError(tokens)
