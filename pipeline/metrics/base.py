"""A metric is a plain function: (candidates, references) -> scores, equal to the original tool's."""

from dataclasses import dataclass

Candidates = dict[str, str]
"image_id -> tokenised caption"
References = dict[str, list[str]]
"image_id -> tokenised references"


class Unavailable(Exception):
    """The metric cannot run here; the message says why and prints as n/a."""


@dataclass(frozen=True)
class Scores:
    corpus: dict[str, float]
    "name -> score of the whole set; one that these captions do not have (a share of nothing) is left out, never NaN"
    per_image: dict[str, dict[str, float]]
    "name -> image_id -> score; an image that does not count is left out"


def coco_style(candidates: Candidates, references: References) -> tuple[References, References]:
    """(references, candidates) as pycocoevalcap wants them: equal keys in equal order, one hypothesis in a list."""
    return {i: references[i] for i in candidates}, {i: [text] for i, text in candidates.items()}
