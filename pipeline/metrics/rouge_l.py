"""ROUGE-L with beta 1.2 (Lin, 2004), by pycocoevalcap."""

from pipeline.metrics.base import Candidates, References, Scores, coco_style


def score(candidates: Candidates, references: References) -> Scores:
    from pycocoevalcap.rouge.rouge import Rouge

    corpus, sentences = Rouge().compute_score(*coco_style(candidates, references))
    return Scores({"rouge_l": float(corpus)}, {"rouge_l": dict(zip(candidates, map(float, sentences), strict=True))})
