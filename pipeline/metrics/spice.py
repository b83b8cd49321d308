"""SPICE (Anderson et al., 2016), by pycocoevalcap. It needs Stanford CoreNLP 3.6.0 beside its
jar."""

import subprocess
from functools import lru_cache
from pathlib import Path

from pipeline.core.java import starting_java
from pipeline.metrics.shared import languages
from pipeline.metrics.shared.base import (
    SETS,
    Candidates,
    References,
    ReferenceSet,
    Scores,
    Unavailable,
    coco_style,
    means,
    reference_set,
)

READS = languages.ENGLISH

BASE = ("java.lang", "java.math", "java.net", "java.text", "java.util", "java.util.concurrent")
# SPICE's serialiser (2016) accesses the JDK's own classes, which current JDKs allow only with these
# options.
OPENED = " ".join(
    f"--add-opens={p}=ALL-UNNAMED"
    for p in (*(f"java.base/{name}" for name in BASE), "java.sql/java.sql")
)


def score(candidates: Candidates, references: References) -> Scores:
    """Return SPICE.

    Raises:
        Unavailable: its models are missing, or its Java fails.
    """
    per_image = dict(_judged(reference_set(candidates, references), tuple(candidates.items())))
    corpus = sum(per_image.values()) / max(1, len(per_image))
    return Scores(
        {"spice": corpus}, {"spice": per_image}, means({"spice": list(per_image.values())})
    )


@lru_cache(SETS)
def _judged(references: ReferenceSet, said: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """Return image_id -> F score.

    The result is cached, because SPIDEr asks again for what SPICE has just scored.
    """
    candidates = dict(said)
    import pycocoevalcap.spice as package

    lib = Path(package.__file__).parent / "lib"
    if not (lib / "stanford-corenlp-3.6.0.jar").is_file():  # its constructor would download them
        raise Unavailable(
            "Stanford CoreNLP 3.6.0 is not beside SPICE's jar: run python -m "
            "pycocoevalcap.spice.get_stanford_models, "
            "then dvc repro -f -s of the score and baseline stages"
        )
    from pycocoevalcap.spice.spice import Spice

    try:
        with starting_java(OPENED):
            _, sentences = Spice().compute_score(*coco_style(candidates, references))
    except subprocess.CalledProcessError as error:
        raise Unavailable(
            f"SPICE's Java ended with status {error.returncode}: see its lines above"
        ) from None
    return {i: float(s["All"]["f"]) for i, s in zip(candidates, sentences, strict=True)}
