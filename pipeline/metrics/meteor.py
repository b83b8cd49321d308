"""METEOR 1.5 (Denkowski and Lavie, 2014), by pycocoevalcap and its jar.

The jar tells 23 numbers of a caption and its best reference, and scores a corpus from their sums (`of_sums` says how).
"""

from contextlib import suppress
from typing import Any

import numpy as np

from pipeline.java import ENGLISH, JavaFailed, starting_java
from pipeline.metrics.base import Array, Candidates, References, Scores, Sums, coco_style

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
"of exact, stem, synonym and paraphrase matches; these and the four above are the jar's for English"
LENGTHS, MATCHES, CHUNKS, MATCHED = slice(0, 4), slice(4, 20), 20, slice(21, 23)
"places in the 23 numbers; all but CHUNKS: of the caption, of the reference, in turns"


def score(candidates: Candidates, references: References) -> Scores:
    """Raises JavaFailed when the Java process dies; it never hangs."""
    with starting_java(ENGLISH):
        meteor = _meteor()
    try:
        gold, guesses = (
            {i: [_one_line(t) for t in texts] for i, texts in side.items()} for side in coco_style(candidates, references)
        )
        corpus, sentences = meteor.compute_score(gold, guesses)
    except (OSError, ValueError) as error:
        raise JavaFailed(f"METEOR's Java process failed: {_complaint(meteor) or error}") from error
    finally:
        _close(meteor)
    per_image = {"meteor": dict(zip(candidates, sentences, strict=True))}
    return Scores({"meteor": float(corpus)}, per_image, Sums(_statistics(meteor.told), of_sums))


def _statistics(told: list[str]) -> Array:
    """(N, 23): as the jar told them, but for a caption that is its reference: in a sum, its one chunk does not count."""
    statistics = np.array([[float(number) for number in line.split()] for line in told])
    same = (statistics[:, MATCHED] == statistics[:, LENGTHS][:, :2]).all(1) & (statistics[:, CHUNKS] == 1)
    statistics[same, CHUNKS] = 0
    return statistics


def of_sums(sums: Array) -> dict[str, Array]:
    """(..., 23) -> (...): weighted harmonic mean of precision and recall, less a penalty for many chunks."""
    words, function_words = sums[..., LENGTHS][..., :2], sums[..., LENGTHS][..., 2:]
    lengths = DELTA * (words - function_words) + (1 - DELTA) * function_words
    stages = sums[..., MATCHES].reshape(*sums.shape[:-1], 4, 2, 2)  # matcher; content, function; caption, reference
    matches = ((DELTA * stages[..., 0, :] + (1 - DELTA) * stages[..., 1, :]) * WEIGHTS[:, None]).sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing matched, or nothing said
        precision, recall = np.moveaxis(matches / lengths, -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = sums[..., CHUNKS] / sums[..., MATCHED].mean(-1)
        score = mean * (1 - GAMMA * fragmentation**BETA)
    return {"meteor": np.where(np.isfinite(score), score, 0.0)}


def _one_line(text: str) -> str:
    """`|||` and line ends are the protocol's own separators; one inside a caption would shift every later score."""
    return " ".join(text.replace("|||", " ").split())


def _meteor() -> Any:
    from pycocoevalcap.meteor.meteor import Meteor

    class QuietMeteor(Meteor):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[str] = []

        def _stat(self, hypothesis_str: str, reference_list: list[str]) -> str:
            self.told.append(super()._stat(hypothesis_str, reference_list))
            return self.told[-1]

        def __del__(self) -> None:  # the original takes a lock here that an error may have left held: a hang at exit
            _close(self)

    return QuietMeteor()


def _close(meteor: Any) -> None:
    process = getattr(meteor, "meteor_p", None)
    if process is None or (process.poll() is not None and process.stdin.closed):
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):  # a dead process's pipe may still hold unsent bytes
            pipe.close()


def _complaint(meteor: Any) -> str:
    """What Java said first, less its announcements of options."""
    meteor.meteor_p.kill()
    lines = meteor.meteor_p.stderr.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip() and "Picked up " not in line), "")
