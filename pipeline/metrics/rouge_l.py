"""ROUGE-L with beta 1.2 (Lin, 2004), by pycocoevalcap."""

from pipeline.metrics.base import Candidates, References, Scores, coco_style, means


def score(candidates: Candidates, references: References) -> Scores:
    from pycocoevalcap.rouge.rouge import Rouge

    corpus, sentences = Rouge().compute_score(*coco_style(candidates, references))
    per_image = {"rouge_l": dict(zip(candidates, map(float, sentences), strict=True))}
    return Scores({"rouge_l": float(corpus)}, per_image, means({"rouge_l": sentences}))
