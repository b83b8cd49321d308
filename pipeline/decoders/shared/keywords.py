"""The keywords of blind image guessing (Huynh et al., 2024, SBG): which words CLIP compares with an
image, which questions it is asked, and which of its answers are taken.

n words, D' width of CLIP's embeddings.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import accumulate, combinations
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.registry import load

# The source's questions to CLIP, and the possible answers.
ALWAYS = ("landscape", "some object")
TOPICS = ("landscape", "people", "animal", "plant", "some object")
SUBJECTS = [subject for count in (1, 2, 3) for subject in combinations(TOPICS, count)]
GROUPS = {
    "landscape": [
        "sky",
        "mountain",
        "beach",
        "forest",
        "desert",
        "grassland",
        "tundra",
        "wetland",
        "city landscape",
        "rural landscape",
        "volcanic",
        "cave",
        "arctic",
        "ocean",
        "indoor",
    ],
    "animal": ["mammal", "fish", "bird", "reptile", "worm", "arthropod", "mollusc"],
    "plant": [
        "fungi",
        "seed",
        "sprout",
        "flower",
        "fruit",
        "vegetable",
        "leaf",
        "root",
        "tree",
        "grass",
        "moss",
        "algae",
    ],
    "some object": [
        "tool",
        "decoration",
        "appliance",
        "utensil",
        "furniture",
        "vehicle",
        "clothing and fashion",
        "instrument",
        "artifact",
        "mechanicals",
        "device",
        "fire",
        "liquid",
        "food",
    ],
    "activity": [
        "looking",
        "socializing",
        "eating",
        "sleeping",
        "standing",
        "wearing",
        "holding",
        "moving",
        "working",
        "leisure activity",
        "sport activity",
    ],
    "weather": [
        "rainy",
        "snowy",
        "foggy",
        "stormy",
        "sunny",
        "overcast",
        "rainbow",
        "cloudy",
        "thunder",
        "lightning",
        "autumn",
        "sunset",
        "starry",
    ],
    "time": ["morning", "mid day", "afternoon", "evening", "night"],
}
ONE = ["a man", "a woman", "a boy", "a girl", "an old man", "an old woman"]
MANY = ["men", "women", "boys", "girls", "old men", "old women", "people"]
PEOPLE = [
    *ONE,
    *(f"{count} {who}" for count in ("two", "three", "four") for who in MANY),
    "a crowd of people",
]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black"]
CLOTHING = [
    f"{colour} {garment}" for garment in ("shirt", "suit", "cloth", "jacket") for colour in COLOURS
]
PROMPTS = {
    "activity": "activity is {}.",
    "time": "picture during {}.",
    "weather": "picture during {}.",
    "clothing": "wearing {}.",
}
LARGEST_GROUP = 100
# Parts of speech by the tags of the British National Corpus (C5). Auxiliaries and names are not
# used as keywords.
KINDS = {
    "NN0": "noun",
    "NN1": "noun",
    "NN2": "noun",
    "CRD": "number",
    "ORD": "number",
    "AV0": "adverb",
}
KINDS |= {"AJ0": "adjective", "AJC": "adjective", "AJS": "adjective"}
KINDS |= dict.fromkeys(("VVB", "VVD", "VVG", "VVI", "VVN", "VVZ"), "verb")
DIGITS = dict(
    zip(
        "0123456789",
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
        strict=True,
    )
)
TOKENS = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


def likeliest(similar: list[float], scale: float, share: float) -> list[int]:
    """Return the indices of the highest probabilities, softmax(scale * similar).

    They come in order, the highest first, until their sum passes `share`.
    """
    if not similar:
        return []
    highest = max(similar)
    weights = [math.exp(scale * (s - highest)) for s in similar]
    order = sorted(range(len(weights)), key=lambda n: -weights[n])
    total, before = sum(weights), accumulate([weights[n] for n in order], initial=0.0)
    return [n for n, so_far in zip(order, before, strict=False) if so_far <= share * total]


def lemmas(texts: Iterable[str]) -> list[tuple[str, str, int]]:
    """Return lemmas that may be keywords, the most frequent first.

    Each row is (lemma, its most frequent part of speech, count).

    Raises:
        UserError: the package HanTa, which finds them, is not installed.
    """
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError:
        raise UserError(
            "decoder blind needs the Python package HanTa, which is not installed: pip "
            "install HanTa"
        ) from None
    tagger = HanoverTagger("morphmodel_en.pgz")
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for _, lemma, tag in tagger.tag_sent(TOKENS.findall(text.lower())):
            if tag in KINDS:
                kinds[DIGITS.get(lemma, lemma)][KINDS[tag]] += 1
    found = [
        (lemma, counts.most_common(1)[0][0], counts.total()) for lemma, counts in kinds.items()
    ]
    return sorted(found, key=lambda row: (-row[2], row[0]))


def keyword_bank(texts: Iterable[str], min_count: int, a: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords, how many of them are labels, and the answers to each question.

    Labels come first. Answers are indices into the keywords.
    """
    found = [(lemma, kind) for lemma, kind, count in lemmas(texts) if count >= min_count]
    clip = load("encoders", "clip").Encoder(model=a["clip"], weights=a["clip_weights"])
    embeddings = clip.texts([lemma for lemma, _ in found])
    kept = distinct(embeddings, a["synonyms"])
    found = [found[n] for n in kept]
    labels = [lemma for lemma, kind in found if kind in ("noun", "adjective", "adverb")][
        : max(0, a["labels"])
    ]
    if not labels:
        seen = f"seen {min_count} times in {sum(1 for _ in texts)} captions"
        raise UserError(
            f"decoder blind finds no keyword: no noun, adjective or adverb is {seen}: "
            "lower train.min_count, or raise args.labels"
        )
    answers = _answers(found, embeddings[kept], clip) if a["hierarchy"] else {}
    keywords = list(
        dict.fromkeys([*labels, *(k for question in answers.values() for k in question)])
    )
    place = {k: n for n, k in enumerate(keywords)}
    return {
        "keywords": keywords,
        "labels": len(labels),
        "answers": {q: [place[k] for k in ks] for q, ks in answers.items()},
    }


def distinct(embeddings: Tensor, threshold: float) -> list[int]:
    """Return the rows (n, D') that have no cosine above `threshold` with any kept row before them.

    All rows have length 1.
    """
    keep = torch.zeros(len(embeddings), dtype=torch.bool)
    for start in range(0, len(embeddings), 512):
        for n, close in enumerate(
            embeddings[start : start + 512] @ embeddings.T > threshold, start
        ):
            keep[n] = not (close & keep).any()
    return keep.nonzero()[:, 0].tolist()


def _answers(found: list[tuple[str, str]], embeddings: Tensor, clip: Any) -> dict[str, list[str]]:
    """Return the possible answers to each question.

    A noun or verb answers the question about the group whose name CLIP finds nearest.
    """
    members: dict[str, list[str]] = defaultdict(list)
    nouns = [
        f"{topic}: {group}"
        for topic in (*TOPICS[:1], *TOPICS[2:], "time")
        for group in GROUPS[topic]
    ]
    verbs = [f"{topic}: {group}" for topic in ("activity", "weather") for group in GROUPS[topic]]
    for kind, groups in (("noun", [*nouns, "occupation: human"]), ("verb", verbs)):
        rows = [n for n, row in enumerate(found) if row[1] == kind]
        centres = clip.texts([group.split(": ")[1] for group in groups])
        for n, group in zip(rows, (embeddings[rows] @ centres.T).argmax(1).tolist(), strict=True):
            members[groups[group]].append(found[n][0])
    topics = {
        **GROUPS,
        "people": PEOPLE,
        "clothing": CLOTHING,
        "occupation": members["occupation: human"],
    }
    topics["some object"] = [
        group for group in GROUPS["some object"] if group != "clothing and fashion"
    ]
    asked = [group for group in (*nouns, *verbs) if not group.startswith(("time", "weather"))]
    return {**topics, **{group: members[group][:LARGEST_GROUP] for group in asked}}
