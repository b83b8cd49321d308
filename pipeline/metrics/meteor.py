"""METEOR 1.5 (Denkowski and Lavie, 2014), by the jar that pycocoevalcap ships.

The jar returns 23 numbers for a caption and its best reference. `of_sums` computes the score of a
caption or of a corpus from them, as the jar itself does with EVAL. pycocoevalcap starts the jar for
every corpus, and the jar normalises each text every time it is compared; together this takes most
of its time. Here the program keeps running (`Responder`). A second program, the jar's normaliser,
processes each text at most once.
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

# Its stems, synonyms and paraphrases are English; the jar's tables for other languages are not
# used.
READS = languages.ENGLISH
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
# Weights of exact, stem, synonym and paraphrase matches. These and the four values above are the
# jar's for English.
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
NUMBERS = 23
# Places among the numbers. In all but CHUNKS, the caption and the reference alternate.
LENGTHS, MATCHES, CHUNKS, MATCHED = slice(0, 4), slice(4, 20), 20, slice(21, 23)

# Number of images per request to the jar.
LINES = 1000
# The normaliser does not change such a text: it splits and joins words only at other characters.
PLAIN = re.compile("[a-z0-9 ]*")


def _folder() -> Path:
    import pycocoevalcap.meteor as package

    return Path(package.__path__[0])


# Java's second compiler is off: it costs more time than it saves within some ten thousand captions.
JVM = (
    *ENGLISH.split(),
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-XX:TieredStopAtLevel=1",
)
JAR = "meteor-1.5.jar"
SCORER = Responder(
    "METEOR", _folder, *JVM, "-Xmx2G", "-jar", JAR, "-", "-", "-stdio", "-l", "en", "-lower"
)
NORMALISER = Responder(
    "METEOR", _folder, *JVM, "-cp", JAR, "edu.cmu.meteor.util.Normalizer", "en", "true"
)


def prepare() -> None:
    """Load the paraphrases (some seconds) while this process does something else.

    `score` does not require a call of this.
    """
    SCORER.start()


def score(candidates: Candidates, references: References) -> Scores:
    """Return METEOR; a call never hangs.

    Raises:
        JavaFailed: a Java process died.
    """
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
    """Yield the requests to the jar, for LINES images at a time."""
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
    """Return line -> normalised line, for each text as one line that the normaliser may change."""
    odd = sorted({line for line in map(_one_line, texts) if not PLAIN.fullmatch(line)})
    return dict(zip(odd, NORMALISER.ask(odd, str) if odd else [], strict=True))


def _one_line(text: str) -> str:
    """Return a text without `|||` and line ends.

    These are the protocol's own separators; one inside a caption would shift every later score.
    """
    return " ".join(text.replace("|||", " ").split())


def _numbers(line: str) -> list[float]:
    numbers = [float(number) for number in line.split()]
    if len(numbers) != NUMBERS:
        raise ValueError(f"{len(numbers)} numbers instead of {NUMBERS}: {line}")
    return numbers


def _statistics(told: list[list[float]]) -> Array:
    """Return (N, 23) the jar's numbers, with CHUNKS set to 0 for a caption that equals its
    reference.

    In a sum, the single chunk of such a caption does not count.
    """
    statistics = np.array(told).reshape(-1, NUMBERS)
    same = (statistics[:, MATCHED] == statistics[:, LENGTHS][:, :2]).all(1) & (
        statistics[:, CHUNKS] == 1
    )
    statistics[same, CHUNKS] = 0
    return statistics


def of_sums(sums: Array) -> dict[str, Array]:
    """Return METEOR, (..., 23) -> (...).

    It is the weighted harmonic mean of precision and recall, less a penalty for many chunks.
    """
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
