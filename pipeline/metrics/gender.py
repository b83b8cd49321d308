"""Whether captions name the gender that the references agree on, after Burns et al., "Women also
Snowboard" (1803.09797).

An image is of women if at least half of its references name a woman and none names a man. For
images of men it is the reverse; every other image is left out. By its words (gender_words.yaml), a
caption names a woman, a man, both, or neither. The figures cover the images of women and of men
together:

gender_images: number of these images.
gender_error: share of these images whose caption names only the other gender, as Burns et al.
    count. A caption without gender is no error, nor is one that names both.
gender_error_named: the same share, over only those images whose caption names exactly one gender.
gender_neutral: share whose caption names no gender.
gender_nobody: share whose caption names no person at all; part of gender_neutral.
gender_ratio: captions that name women : captions that name men. A caption that names both counts
    for both.
gender_ratio_refs: images of women : images of men, which gender_ratio should equal.

A share of no images is left out, and so is a ratio to none.
"""

from functools import cache
from pathlib import Path

from pipeline.core.yaml12 import read_yaml
from pipeline.metrics.shared import languages
from pipeline.metrics.shared.base import Candidates, References, Scores, means_of

READS = languages.ENGLISH
WOMAN, MAN, BOTH = 1.0, 0.0, 0.5


@cache
def words() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return the words for women, for men, and for persons without a gender."""
    lists = read_yaml(Path(__file__).with_name("gender_words.yaml"))
    men, women = zip(*lists["pairs"], strict=True)
    return frozenset(women), frozenset(men), frozenset(lists["neutral"].split())


def named(caption: str) -> float | None:
    """Return the gender that a caption names: WOMAN, MAN, BOTH, or None."""
    women, men, _ = words()
    said = set(caption.split())
    found = not women.isdisjoint(said), not men.isdisjoint(said)
    return {(True, False): WOMAN, (False, True): MAN, (True, True): BOTH}.get(found)


def agreed(references: list[str]) -> float | None:
    """Return WOMAN or MAN if at least half of the references name that gender and none names the
    other, else None."""
    genders = [named(text) for text in references]
    for one, other in ((WOMAN, MAN), (MAN, WOMAN)):
        if 2 * genders.count(one) >= len(genders) > 0 and not {other, BOTH} & set(genders):
            return one
    return None


def score(candidates: Candidates, references: References) -> Scores:
    """Return the figures.

    Per image: gender_references and gender_caption (1 a woman, 0 a man, 0.5 both), and 1 or 0 for
    every share.
    """
    truth = {i: gender for i in candidates if (gender := agreed(references[i])) is not None}
    said = {i: named(candidates[i]) for i in truth}
    one = {i: gender for i, gender in said.items() if gender in (WOMAN, MAN)}
    shares = {
        "gender_error": {i: float(said[i] == 1 - truth[i]) for i in truth},
        "gender_error_named": {i: float(gender == 1 - truth[i]) for i, gender in one.items()},
        "gender_neutral": {i: float(said[i] is None) for i in truth},
        "gender_nobody": {i: float(said[i] is None and _nobody(candidates[i])) for i in truth},
    }
    corpus = {"gender_images": float(len(truth))}
    corpus |= {
        name: sum(values.values()) / len(values) for name, values in shares.items() if values
    }
    corpus |= _ratio("gender_ratio", list(said.values())) | _ratio(
        "gender_ratio_refs", list(truth.values())
    )
    verdicts = {i: gender for i, gender in said.items() if gender is not None}
    return Scores(
        corpus,
        {**shares, "gender_references": truth, "gender_caption": verdicts},
        means_of(candidates, shares),
    )


def _nobody(caption: str) -> bool:
    return words()[2].isdisjoint(caption.split())


def _ratio(name: str, genders: list[float | None]) -> dict[str, float]:
    women, men = (genders.count(gender) + genders.count(BOTH) for gender in (WOMAN, MAN))
    return {name: women / men} if men else {}
