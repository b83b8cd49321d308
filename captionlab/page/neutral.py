"""Reword a caption without a gender, by the rule and the words of neutral_words.yaml."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.core.yaml12 import read_yaml
from pipeline.metrics import gender

WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Wording:
    named: tuple[str, ...]
    "The words that name a gender, in their order."
    text: str
    "The caption without them."


def neutral_wording(caption: str) -> Wording | None:
    """Return what to say instead, or None if no word names a gender."""
    rule = _rule()
    parts = re.split(r"([A-Za-z]+)", caption)  # words are at the odd places
    named = [word.lower() for word in parts[1::2] if word.lower() in rule["words"]]
    if not named:
        return None
    for place in range(1, len(parts), 2):
        _replace(parts, place, rule)
    text = " ".join("".join(parts).split())
    for twice, once in rule["together"].items():
        for found in re.findall(rf"\b{twice}\b", text, flags=re.IGNORECASE):
            text = text.replace(found, _like(found, once))
    return Wording(tuple(named), text)


def _replace(parts: list[str], place: int, rule: dict[str, Any]) -> None:
    word = parts[place].lower()
    last = not any(WORD.fullmatch(part) for part in parts[place + 1 :])
    if word in ("male", "female") and not last and parts[place + 2].lower() in rule["persons"]:
        following = rule["words"].get(parts[place + 2].lower(), parts[place + 2])
        parts[place], parts[place + 1] = "", parts[place + 1].lstrip()
        _match_article(parts, place, following)
    elif word in rule["words"]:
        parts[place] = _like(parts[place], rule["words"][word])
        _match_article(parts, place, parts[place])
    elif word == "her" and last:
        parts[place] = "them"
    elif word in rule["pronouns"]:
        parts[place] = _like(parts[place], rule["pronouns"][word])


def _match_article(parts: list[str], place: int, following: str) -> None:
    if place >= 3 and parts[place - 2].lower() in ("a", "an"):
        parts[place - 2] = _like(parts[place - 2], "an" if following[0].lower() in "aeiou" else "a")


def _like(old: str, new: str) -> str:
    return new[0].upper() + new[1:] if old[0].isupper() else new


@cache
def _rule() -> dict[str, Any]:
    """Return the rule: `words` and `pronouns` map old -> new, `together` maps twice -> once.

    `persons` are the words before which male and female are dropped.
    """
    listed = read_yaml(Path(__file__).with_name("neutral_words.yaml"))
    words, pronouns = (
        {old: new for new, olds in listed[key].items() for old in olds.split()}
        for key in ("words", "pronouns")
    )
    persons = gender.words()[2] | words.keys() - {"male", "female"}
    return {
        "words": words,
        "pronouns": pronouns,
        "persons": persons,
        "together": listed["together"],
    }
