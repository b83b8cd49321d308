"""Scores of tokenised captions against references, with resamples for their intervals."""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import UserError
from pipeline.core.registry import load
from pipeline.languages.languages import ENGLISH
from pipeline.metrics.shared.base import (
    Array,
    Candidates,
    References,
    Scores,
    Sums,
    Unavailable,
    means,
    reference_set,
)
from pipeline.metrics.shared.languages import WORDS, why_not
from pipeline.scoring.bootstrap import resample

# Metric -> further arguments that it takes.
More = Mapping[str, tuple[Any, ...]]
# Columns that scoring needs from a table of captions, in addition to the tokenised captions.
NEEDED = {
    "image_id",
    "split",
    "log_prob",
    "tokens",
    "reference_nll",
    "reference_tokens",
    "top5_hits",
}


@dataclass
class SetScores:
    """Scores of one set of images."""

    corpus: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, Array] = field(default_factory=dict)
    "Score -> (N,), in the order of the candidates. NaN marks an image without this score."
    sums: list[Sums] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    "Metric -> why it could not run."


def score_set(
    candidates: Candidates,
    references: References,
    metrics: list[str],
    more: More | None = None,
    language: str = ENGLISH,
) -> SetScores:
    """Score one set of images.

    Args:
        candidates, references: image_id -> tokenised texts.
        more: further arguments of a metric, by its name.
    """
    out, known = SetScores(), reference_set(candidates, references, language)
    for name in metrics:
        metric = load("metrics", name)
        try:
            if why := why_not(getattr(metric, "READS", WORDS), known):
                raise Unavailable(why)
            scores = checked(name, metric.score(candidates, known, *(more or {}).get(name, ())))
        except Unavailable as reason:
            out.unavailable[name] = str(reason)
            continue
        out.corpus |= scores.corpus
        for score, values in scores.per_image.items():
            out.per_image[score] = np.array([values.get(image, math.nan) for image in candidates])
        out.sums += [scores.sums] if scores.sums else []
    return out


def checked(metric: str, scores: object) -> Scores:
    """Return what a metric's file has returned.

    Raises:
        UserError: it is not what a metric returns.
    """
    where = f"pipeline/metrics/{metric}.py"
    if not isinstance(scores, Scores):
        kind = type(scores).__name__
        raise UserError(f"{where}: score returned {kind}: return Scores of metrics/shared/base.py")
    for name, value in scores.corpus.items():
        if not math.isfinite(value):
            raise UserError(
                f"{where}: {name} is {value} for these captions: leave out a score that they do "
                "not have"
            )
    return scores


@dataclass(frozen=True)
class Scored:
    """The scores of one table of captions."""

    summary: dict[str, dict[str, float]]
    "Split -> score -> value."
    unavailable: dict[str, str]
    "Metric -> why it could not run."
    per_image: pd.DataFrame
    "Table with image_id, split, and a column per per-image score."
    resamples: dict[str, dict[str, Array]]
    "Split -> score -> its values on resamples of the images."
    images: dict[str, list[str]]
    "Split -> image ids that were resampled, in their order."
    sd: dict[str, dict[str, float]] = field(default_factory=dict)
    "Split -> score -> its standard deviation over trainings. Empty unless the summary has means."


def score_captions(
    captions: pd.DataFrame,
    candidates: Candidates,
    references: References,
    metrics: list[str],
    training: Container[str] | None = None,
    more: More | None = None,
    language: str = ENGLISH,
) -> Scored:
    """Score each split of a table of captions.

    Args:
        captions: image_id and split. If a model made the captions, also log_prob and tokens, and
            the teacher-forced sums over references.
        candidates, references: image_id -> tokenised texts.
        training: the tokenised training captions; None skips the score `novel`.
        more: further arguments of a metric, by its name.
        language: language of captions and references.
    """
    out = Scored({}, {}, pd.DataFrame(), {}, {})
    tables, needed = [], captions[[column for column in captions if column in NEEDED]]
    for name, rows in needed.groupby("split", sort=True):
        split = str(name)
        rows = rows.sort_values(
            "image_id"
        )  # resamples pair only if every variant has the same images in the same order
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
    """Add `novel`: the share of captions that are not training captions."""
    novel = np.array([float(text not in training) for text in candidates.values()])
    found.corpus["novel"] = float(novel.sum()) / len(novel)
    found.per_image["novel"] = novel
    found.sums.append(means({"novel": novel}))


def _confidence(rows: pd.DataFrame, cider: Array | None) -> dict[str, float]:
    """Return log_prob_rho: Spearman's rank correlation, over images, between a caption's
    log-probability per token and its CIDEr.

    It is computed as Pearson's correlation of average ranks. It is left out if one of the two is
    missing or is equal for all images.

    Args:
        cider: CIDEr of each row.
    """
    if not {"log_prob", "tokens"} <= set(rows) or cider is None:
        return {}
    known = pd.DataFrame({"sure": rows.log_prob / rows.tokens, "good": cider}).dropna()
    if known.nunique().min() < 2 or known.empty:
        return {}
    ranks = known.rank()
    return {"log_prob_rho": float(ranks.sure.corr(ranks.good))}


def _add_teacher_forced(found: SetScores, rows: pd.DataFrame) -> None:
    """Add loss (nats per token), perplexity and top-5 accuracy over all references. Captions that
    no model made have none."""
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
            found.unavailable["perplexity"] = f"the exponential of {loss} is not a finite number"
        found.corpus |= scores
        found.sums.append(sums)


def _teacher_forced(sums: Array) -> dict[str, Array]:
    """Return the scores (...) of sums (..., 3)."""
    nll, tokens, hits = np.moveaxis(sums, -1, 0)
    with np.errstate(over="ignore"):
        perplexity = np.exp(nll / tokens)
    perplexity = np.where(np.isinf(perplexity), np.nan, perplexity)
    return {"loss": nll / tokens, "perplexity": perplexity, "top5": hits / tokens}
