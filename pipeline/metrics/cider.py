"""CIDEr-D, document frequencies from the scored references (Vedantam et al., 2015), by pycocoevalcap."""

from pipeline.metrics.base import Candidates, References, Scores, coco_style


def score(candidates: Candidates, references: References) -> Scores:
    from pycocoevalcap.cider.cider import Cider

    corpus, sentences = Cider().compute_score(*coco_style(candidates, references))
    return Scores({"cider": float(corpus)}, {"cider": dict(zip(candidates, map(float, sentences), strict=True))})
