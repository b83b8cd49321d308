"""SPICE (Anderson et al., 2016), by pycocoevalcap, where Stanford CoreNLP 3.6.0 has been put beside its jar."""

from pathlib import Path

from pipeline.java import use_java
from pipeline.metrics.base import Candidates, References, Scores, Unavailable, coco_style


def score(candidates: Candidates, references: References) -> Scores:
    import pycocoevalcap.spice as package

    lib = Path(package.__file__).parent / "lib"
    if not (lib / "stanford-corenlp-3.6.0.jar").is_file():  # its constructor would download them
        raise Unavailable(
            "Stanford CoreNLP 3.6.0 is not beside SPICE's jar: run python -m pycocoevalcap.spice.get_stanford_models"
        )
    from pycocoevalcap.spice.spice import Spice

    use_java()
    corpus, sentences = Spice().compute_score(*coco_style(candidates, references))
    per_image = {i: float(s["All"]["f"]) for i, s in zip(candidates, sentences, strict=True)}
    return Scores({"spice": float(corpus)}, {"spice": per_image})
