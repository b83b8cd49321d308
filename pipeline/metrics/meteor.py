"""METEOR 1.5 (Denkowski and Lavie, 2014), by the jar that pycocoevalcap ships.

The jar tells 23 numbers of a caption and its best reference; `of_sums` makes the score of a caption
or of a corpus from them, as the jar itself does when asked with EVAL. pycocoevalcap starts the jar
for every corpus and has each text normalised each time it is compared, which together is most of
its time. Here the program stays (`Responder`), and another one, the jar's normaliser, is asked of
each text once, if at all.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.core.java import ENGLISH, Responder
from pipeline.metrics.shared import languages
from pipeline.metrics.shared.base import (
    SETS,
    Array,
    Candidates,
    References,
    ReferenceSet,
    Scores,
    Sums,
    reference_set,
)

READS = languages.ENGLISH
"its stems, synonyms and paraphrases are; the jar's tables for other languages are not used"
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
"of exact, stem, synonym and paraphrase matches; these and the four above are the jar's for English"
NUMBERS = 23
LENGTHS, MATCHES, CHUNKS, MATCHED = slice(0, 4), slice(4, 20), 20, slice(21, 23)
"places among the numbers; all but CHUNKS: of the caption, of the reference, in turns"

LINES = 1000
"images that the jar is asked about at a time"
PLAIN = re.compile("[a-z0-9 ]*")
"the normaliser leaves such a text as it is: it parts and joins words at other characters only"


def _folder() -> Path:
    import pycocoevalcap.meteor as package

    return Path(package.__path__[0])


JVM = (
    *ENGLISH.split(),
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-XX:TieredStopAtLevel=1",
)
"Java's second compiler costs more time than it saves within some ten thousand captions"
JAR = "meteor-1.5.jar"
SCORER = Responder(
    "METEOR", _folder, *JVM, "-Xmx2G", "-jar", JAR, "-", "-", "-stdio", "-l", "en", "-lower"
)
NORMALISER = Responder(
    "METEOR", _folder, *JVM, "-cp", JAR, "edu.cmu.meteor.util.Normalizer", "en", "true"
)


def prepare() -> None:
    """Have the paraphrases loaded (some seconds) while this process does something else; needed
    before no call of `score`."""
    SCORER.start()


def score(candidates: Candidates, references: References) -> Scores:
    """Raises JavaFailed when a Java process dies; it never hangs."""
    known = _normalised_references(reference_set(candidates, references))
    told = {**known, **_normalised(text for text in candidates.values() if text not in known)}
    rows = [
        _statistics(SCORER.ask(lines, _numbers)) for lines in _lines(candidates, references, told)
    ]
    statistics = np.concatenate([np.empty((0, NUMBERS)), *rows])
    per_image = dict(zip(candidates, of_sums(statistics)["meteor"].tolist(), strict=True))
    corpus = float(of_sums(statistics.sum(0))["meteor"])
    return Scores({"meteor": corpus}, {"meteor": per_image}, Sums(statistics, of_sums))


def _lines(
    candidates: Candidates, references: References, told: dict[str, str]
) -> Iterator[list[str]]:
    """What the jar is asked, of LINES images at a time."""
    images = list(candidates)
    for start in range(0, len(images), LINES):
        texts = ([*references[image], candidates[image]] for image in images[start : start + LINES])
        yield [
            " ||| ".join(["SCORE", *(told.get(line, line) for line in map(_one_line, each))])
            for each in texts
        ]


@lru_cache(SETS)
def _normalised_references(references: ReferenceSet) -> dict[str, str]:
    return _normalised(text for texts in references.values() for text in texts)


def _normalised(texts: Iterable[str]) -> dict[str, str]:
    """What the normaliser makes of those texts, each as one line, that it may change."""
    odd = sorted({line for line in map(_one_line, texts) if not PLAIN.fullmatch(line)})
    return dict(zip(odd, NORMALISER.ask(odd, str) if odd else [], strict=True))


def _one_line(text: str) -> str:
    """`|||` and line ends are the protocol's own separators; one inside a caption would shift every
    later score."""
    return " ".join(text.replace("|||", " ").split())


def _numbers(line: str) -> list[float]:
    numbers = [float(number) for number in line.split()]
    if len(numbers) != NUMBERS:
        raise ValueError(f"{len(numbers)} numbers instead of {NUMBERS}: {line}")
    return numbers


def _statistics(told: list[list[float]]) -> Array:
    """(N, 23): as the jar told them, but for a caption that is its reference: in a sum, its one
    chunk does not count."""
    statistics = np.array(told).reshape(-1, NUMBERS)
    same = (statistics[:, MATCHED] == statistics[:, LENGTHS][:, :2]).all(1) & (
        statistics[:, CHUNKS] == 1
    )
    statistics[same, CHUNKS] = 0
    return statistics


def of_sums(sums: Array) -> dict[str, Array]:
    """(..., 23) -> (...): weighted harmonic mean of precision and recall, less a penalty for many
    chunks."""
    words, function_words = sums[..., LENGTHS][..., :2], sums[..., LENGTHS][..., 2:]
    lengths = DELTA * (words - function_words) + (1 - DELTA) * function_words
    stages = sums[..., MATCHES].reshape(
        *sums.shape[:-1], 4, 2, 2
    )  # matcher; content, function; caption, reference
    matches = (
        (DELTA * stages[..., 0, :] + (1 - DELTA) * stages[..., 1, :]) * WEIGHTS[:, None]
    ).sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing matched, or nothing said
        precision, recall = np.moveaxis(matches / lengths, -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = sums[..., CHUNKS] / sums[..., MATCHED].mean(-1)
        score = mean * (1 - GAMMA * fragmentation**BETA)
    return {"meteor": np.where(np.isfinite(score), score, 0.0)}
