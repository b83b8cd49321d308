"""METEOR 1.5 (Denkowski and Lavie, 2014), by pycocoevalcap and its jar."""

from contextlib import suppress
from typing import Any

from pipeline.java import ENGLISH, use_java
from pipeline.metrics.base import Candidates, References, Scores, coco_style


def score(candidates: Candidates, references: References) -> Scores:
    """Raises a RuntimeError when the Java process dies; it never hangs."""
    use_java(ENGLISH)
    meteor = _meteor()
    try:
        gold, guesses = (
            {i: [_one_line(t) for t in texts] for i, texts in side.items()} for side in coco_style(candidates, references)
        )
        corpus, sentences = meteor.compute_score(gold, guesses)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"METEOR's Java process failed: {_complaint(meteor) or error}") from error
    finally:
        _close(meteor)
    return Scores({"meteor": float(corpus)}, {"meteor": dict(zip(candidates, sentences, strict=True))})


def _one_line(text: str) -> str:
    """`|||` and line ends are the protocol's own separators; one inside a caption would shift every later score."""
    return " ".join(text.replace("|||", " ").split())


def _meteor() -> Any:
    from pycocoevalcap.meteor.meteor import Meteor

    class QuietMeteor(Meteor):
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
