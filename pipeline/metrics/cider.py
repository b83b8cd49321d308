"""CIDEr-D, document frequencies from the scored references (Vedantam et al., 2015), by pycocoevalcap.

A resample keeps the document frequencies of the whole set.
"""

from pipeline.metrics.base import Candidates, References, Scores, coco_style, means


def score(candidates: Candidates, references: References) -> Scores:
    from pycocoevalcap.cider.cider import Cider

    corpus, sentences = Cider().compute_score(*coco_style(candidates, references))
    per_image = {"cider": dict(zip(candidates, map(float, sentences), strict=True))}
    return Scores({"cider": float(corpus)}, per_image, means({"cider": sentences}))
