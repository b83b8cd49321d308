"""CHAIR (Rohrbach et al., 2018, "Object hallucination in image captioning"): objects of COCO that a
caption mentions but its image does not contain.

chair_i: mentions of objects that are not in the image / all mentions; lower is better.
chair_s: share of captions that mention such an object; lower is better.
object_recall: objects in the image that the caption mentions / objects in the image.

An image contains the objects that its references mention and, as in the original, those of COCO's
segmentations if their files are given. COCO's synonyms map words to objects; the user gives their
file. Each line of it lists the words for one object, the object itself first. The original makes
plurals singular with a library that is no longer maintained (pattern). Here regular endings are
removed, and a table covers the irregular plurals that these lists need.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import UserError
from pipeline.metrics.shared import languages
from pipeline.metrics.shared.base import (
    Array,
    Candidates,
    References,
    Scores,
    Sums,
    Unavailable,
)

READS = languages.ENGLISH
# Irregular plural -> singular. The synonyms tell which object the singular is.
IRREGULAR = {
    "children": "child",
    "geese": "goose",
    "knives": "knife",
    "men": "man",
    "mice": "mouse",
    "people": "people",
    "wolves": "wolf",
    "women": "woman",
}
ANIMALS = (
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    *("animal", "cub"),
)
# Pairs of words that mean another object than each word alone, or none; from the original.
PAIRS = {
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    **{pair: pair for pair in ("home plate", "train track", "hot dog", "teddy bear")},
    "bow tie": "tie",
    "toilet seat": "toilet",
}


@dataclass(frozen=True)
class Objects:
    """Maps words to objects."""

    of_word: Mapping[str, str]
    "Word or pair of words -> object."

    def said(self, text: str) -> list[str]:
        """Return the objects that a caption mentions, in its order, once per mention."""
        words = [self._singular(word) for word in text.split()]
        found, n = [], 0
        while n < len(words):
            pair = " ".join(words[n : n + 2])
            if pair in PAIRS or (pair in self.of_word and " " in pair):
                found.append(PAIRS.get(pair, pair))
                n += 2
            else:
                found.append(words[n])
                n += 1
        if "toilet" in found:  # a toilet seat is not a chair
            found = [word for word in found if word != "seat"]
        return [self.of_word[word] for word in found if word in self.of_word]

    def _singular(self, word: str) -> str:
        return next((form for form in _forms(word) if form in self._singles), word)

    @property
    def _singles(self) -> frozenset[str]:
        return _words(tuple(self.of_word))


@lru_cache(4)
def _words(entries: tuple[str, ...]) -> frozenset[str]:
    """Return all words of the lists, including those in pairs."""
    return frozenset(word for entry in (*entries, *PAIRS) for word in entry.split())


def _forms(word: str) -> Iterable[str]:
    """Yield the word, and the words whose plural it may be."""
    yield word
    yield IRREGULAR.get(word, word)
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]


@lru_cache(4)
def read_objects(path: str) -> Objects:
    """Read a file of synonyms, with lines such as `person, girl, boy`.

    A word that stands for several objects belongs to the first of them.

    Raises:
        UserError: the file is missing, not text, or empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"{path} is not a text file: name COCO's synonyms, one object a line, its "
            "words separated by commas"
        ) from None
    of_word: dict[str, str] = {}
    for line in lines:
        words = [word.strip().lower() for word in line.split(",") if word.strip()]
        for word in words:
            of_word.setdefault(word, words[0])
    if not of_word:
        raise UserError(f"{path} is empty: name COCO's synonyms, a line of words an object")
    return Objects(of_word)


@lru_cache(4)
def read_instances(paths: tuple[str, ...], synonyms: str) -> dict[str, set[str]]:
    """Return image -> its objects, from COCO's instances.

    Each image is there by its id, and by its file's name without suffix.

    Raises:
        UserError: a file is not COCO's JSON, or has an object that the synonyms lack.
    """
    from pipeline.data.checked import read_json

    found: dict[str, set[str]] = {}
    known = read_objects(synonyms).of_word
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"{path} is not a file: name COCO's instances, a file of JSON")
        try:
            data = read_json(Path(path), "name COCO's instances")
            names = {each["id"]: str(each["name"]) for each in data["categories"]}
            images = {i["id"]: [str(i["id"]), Path(i["file_name"]).stem] for i in data["images"]}
            pairs = [(images[a["image_id"]], names[a["category_id"]]) for a in data["annotations"]]
        except (KeyError, TypeError):
            raise UserError(
                f"{path} is not a file of COCO's instances: it needs images, categories and "
                "annotations"
            ) from None
        for called, name in pairs:
            if name not in known:
                raise UserError(f"{path}: the object '{name}' is not in {synonyms}: add a line")
            for image in called:
                found.setdefault(image, set()).add(known[name])
    return found


def score(
    candidates: Candidates, references: References, chair: Mapping[str, Any] | None = None
) -> Scores:
    """Return chair_i, chair_s and object_recall.

    Args:
        chair: `synonyms`, a file, and `instances`, files of COCO's segmentations or [].

    Raises:
        Unavailable: no file of synonyms is named.
        UserError: a file cannot be read.
    """
    if not chair:
        raise Unavailable(
            "it needs COCO's synonyms: scoring: {chair: {synonyms: FILE, instances: []}}"
        )
    objects = read_objects(str(chair["synonyms"]))
    seen = read_instances(tuple(map(str, chair["instances"])), str(chair["synonyms"]))
    rows = [
        _counts(objects.said(text), _there(objects, references[image]) | seen.get(image, set()))
        for image, text in candidates.items()
    ]
    statistics = np.array(rows, dtype=float).reshape(-1, 6)
    totals, single = of_sums(statistics.sum(0)), of_sums(statistics)
    per_image = {
        name: {i: v for i, v in zip(candidates, values.tolist(), strict=True) if v == v}
        for name, values in single.items()
    }
    corpus = {name: float(value) for name, value in totals.items() if not np.isnan(value)}
    return Scores(corpus, per_image, Sums(statistics, of_sums))


def _there(objects: Objects, texts: Sequence[str]) -> set[str]:
    return {name for text in texts for name in objects.said(text)}


def _counts(said: list[str], there: set[str]) -> list[int]:
    """Return six counts of a caption: a numerator and a denominator for each score.

    chair_i: mentions of objects that are not there, all mentions. chair_s: 1 if there is such a
    mention, else 0; then 1. object_recall: mentioned objects that are there, all objects that are
    there.
    """
    wrong = sum(name not in there for name in said)
    return [wrong, len(said), int(wrong > 0), 1, len(there.intersection(said)), len(there)]


def of_sums(sums: Array) -> dict[str, Array]:
    """Return the three shares, (..., 6) -> (...); a share of nothing is NaN."""
    parts, wholes = sums[..., 0::2], sums[..., 1::2]
    with np.errstate(invalid="ignore"):
        shares = parts / wholes
    return dict(
        zip(("chair_i", "chair_s", "object_recall"), np.moveaxis(shares, -1, 0), strict=True)
    )
