"""BLEU-1..4, corpus level with the closest reference length (Papineni et al., 2002), by pycocoevalcap."""

from pipeline.metrics.base import Candidates, References, Scores, coco_style


def score(candidates: Candidates, references: References) -> Scores:
    from pycocoevalcap.bleu.bleu import Bleu

    corpus, sentences = Bleu(4).compute_score(*coco_style(candidates, references), verbose=0)
    names = [f"bleu_{n}" for n in range(1, 5)]
    per_image = {name: dict(zip(candidates, row, strict=True)) for name, row in zip(names, sentences, strict=True)}
    return Scores(dict(zip(names, map(float, corpus), strict=True)), per_image)
