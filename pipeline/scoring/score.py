"""Tokenised captions + references -> scores, with resamples for their intervals."""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.registry import load
from pipeline.languages.languages import ENGLISH
from pipeline.metrics.shared.base import (
    Array,
    Candidates,
    References,
    Sums,
    Unavailable,
    means,
    reference_set,
)
from pipeline.metrics.shared.languages import WORDS, why_not
from pipeline.scoring.bootstrap import resample

More = Mapping[str, tuple[Any, ...]]
NEEDED = {
    "image_id",
    "split",
    "log_prob",
    "tokens",
    "reference_nll",
    "reference_tokens",
    "top5_hits",
}
"of a table of captions, beside the tokenised captions"


@dataclass
class SetScores:
    """What the metrics say of one set of images."""

    corpus: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, Array] = field(default_factory=dict)
    "score -> (N,), in the order of the candidates; NaN for an image that has none"
    sums: list[Sums] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    "metric -> why it could not run"


def score_set(
    candidates: Candidates,
    references: References,
    metrics: list[str],
    more: More | None = None,
    language: str = ENGLISH,
) -> SetScores:
    """Args: candidates, references: tokenised; more: what a metric takes beside them, by its
    name."""
    out, known = SetScores(), reference_set(candidates, references, language)
    for name in metrics:
        metric = load("metrics", name)
        try:
            if why := why_not(getattr(metric, "READS", WORDS), known):
                raise Unavailable(why)
            scores = metric.score(candidates, known, *(more or {}).get(name, ()))
        except Unavailable as reason:
            out.unavailable[name] = str(reason)
            continue
        out.corpus |= scores.corpus
        for score, values in scores.per_image.items():
            out.per_image[score] = np.array([values.get(image, math.nan) for image in candidates])
        out.sums += [scores.sums] if scores.sums else []
    return out


@dataclass(frozen=True)
class Scored:
    """The scores of one table of captions."""

    summary: dict[str, dict[str, float]]
    "split -> score -> value"
    unavailable: dict[str, str]
    "metric -> why it could not run"
    per_image: pd.DataFrame
    "image_id, split, and a column per score that an image has"
    resamples: dict[str, dict[str, Array]]
    "split -> score -> its values on resamples of the images"
    images: dict[str, list[str]]
    "split -> the ids that were resampled, in their order"
    sd: dict[str, dict[str, float]] = field(default_factory=dict)
    "split -> score -> its standard deviation over trainings, where the summary is of means"


def score_captions(
    captions: pd.DataFrame,
    candidates: Candidates,
    references: References,
    metrics: list[str],
    training: Container[str] | None = None,
    more: More | None = None,
    language: str = ENGLISH,
) -> Scored:
    """Score each split of a table of captions (image_id, split, and what is asked for below).

    Args:
        captions: with log_prob and tokens, and with the teacher-forced sums over references, where
            there was a model.
        candidates, references: image_id -> tokenised.
        training: the tokenised training captions; None: it is not asked which captions are new.
        more: what a metric takes beside captions and references, by its name.
        language: of captions and references.
    """
    out = Scored({}, {}, pd.DataFrame(), {}, {})
    tables, needed = [], captions[[column for column in captions if column in NEEDED]]
    for name, rows in needed.groupby("split", sort=True):
        split = str(name)
        rows = rows.sort_values(
            "image_id"
        )  # the same images in the same order for every variant, so that resamples pair
        images = rows.image_id.tolist()
        said = {i: candidates[i] for i in images}
        found = score_set(said, references, metrics, more, language)
        if training is not None:
            _add_novel(found, said, training)
        found.corpus |= _confidence(rows, found.per_image.get("cider"))
        _add_teacher_forced(found, rows)
        tables.append(rows[["image_id", "split"]].assign(**found.per_image))
        out.summary[split], out.images[split] = found.corpus, images
        out.resamples[split] = resample(found.sums, len(rows))
        out.unavailable.update(found.unavailable)
    return replace(out, per_image=pd.concat(tables, ignore_index=True))


def _add_novel(found: SetScores, candidates: Candidates, training: Container[str]) -> None:
    """novel: share of captions that are no training caption."""
    novel = np.array([float(text not in training) for text in candidates.values()])
    found.corpus["novel"] = float(novel.sum()) / len(novel)
    found.per_image["novel"] = novel
    found.sums.append(means({"novel": novel}))


def _confidence(rows: pd.DataFrame, cider: Array | None) -> dict[str, float]:
    """log_prob_rho: Spearman's rank correlation, over images, of a caption's log-probability per
    token with its CIDEr.

    Pearson's on average ranks. Left out where there is neither, or where one of them is equal for
    all images.

    Args:
        cider: of each row.
    """
    if not {"log_prob", "tokens"} <= set(rows) or cider is None:
        return {}
    known = pd.DataFrame({"sure": rows.log_prob / rows.tokens, "good": cider}).dropna()
    if known.nunique().min() < 2 or known.empty:
        return {}
    ranks = known.rank()
    return {"log_prob_rho": float(ranks.sure.corr(ranks.good))}


def _add_teacher_forced(found: SetScores, rows: pd.DataFrame) -> None:
    """loss (nats per token), perplexity and top-5 accuracy over all references; captions without a
    model have none."""
    if "reference_nll" in rows:
        sums = Sums(
            rows[["reference_nll", "reference_tokens", "top5_hits"]].to_numpy(dtype=float),
            _teacher_forced,
        )
        scores = {
            name: float(value) for name, value in _teacher_forced(sums.statistics.sum(0)).items()
        }
        if math.isnan(scores["perplexity"]) and math.isfinite(scores["loss"]):
            del scores["perplexity"]
            loss = f"a loss of {scores['loss']:.0f} nats"
            found.unavailable["perplexity"] = f"the exponential of {loss} is no finite number"
        found.corpus |= scores
        found.sums.append(sums)


def _teacher_forced(sums: Array) -> dict[str, Array]:
    """(..., 3) -> (...)."""
    nll, tokens, hits = np.moveaxis(sums, -1, 0)
    with np.errstate(over="ignore"):
        perplexity = np.exp(nll / tokens)
    perplexity = np.where(np.isinf(perplexity), np.nan, perplexity)
    return {"loss": nll / tokens, "perplexity": perplexity, "top5": hits / tokens}
