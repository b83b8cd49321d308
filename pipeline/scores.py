"""Captions + references -> scores under the standard protocol: PTB tokenizer on both sides, pycocoevalcap."""

import math
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import UserError
from pipeline.files import whole_file, write_json
from pipeline.java import JavaFailed, starting_java
from pipeline.metrics.base import Array, Candidates, References, Sums, Unavailable, means_of
from pipeline.registry import load
from pipeline.uncertainty import resample, resample_table


def ptb_tokenize(captions: References) -> References:
    """Lower-cased words without punctuation, by pycocoevalcap's PTBTokenizer (one Java start).

    Raises:
        JavaFailed: it gave back another number of captions.
        UserError: it cannot write its temporary file, which it does where it is installed.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # A line end inside a caption, U+2028 too, would silently shift every later caption.
    coco = {i: [{"caption": " ".join(t.split())} for t in texts] for i, texts in captions.items()}
    try:
        with starting_java():
            tokenized: References = PTBTokenizer().tokenize(coco)
    except PermissionError as error:
        raise UserError(f"{error.filename}: the PTB tokenizer must write here: make the folder writable") from None
    if [len(v) for v in tokenized.values()] != [len(v) for v in captions.values()]:
        raise JavaFailed("the PTB tokenizer returned another number of captions than it was given")
    return tokenized


def training_captions(captions: pd.DataFrame) -> list[str]:
    """The different training captions of a corpus (image_id, text, split) as a model learns them, after the PTB tokenizer.

    Of the cleaned text: a model trained without one-letter words could never repeat a caption as it was published.
    """
    texts = captions.text[captions["split"] == "train"].unique()
    return sorted({text for (text,) in ptb_tokenize({str(n): [text] for n, text in enumerate(texts)}).values()})


@dataclass
class SetScores:
    """What the metrics say of one set of images."""

    corpus: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    "score -> image_id -> value"
    sums: list[Sums] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    "metric -> why it could not run"


def score_set(candidates: Candidates, references: References, metrics: list[str]) -> SetScores:
    """Args: candidates, references: tokenised."""
    out = SetScores()
    for name in metrics:
        try:
            scores = load("metrics", name).score(candidates, references)
        except Unavailable as reason:
            out.unavailable[name] = str(reason)
            continue
        out.corpus |= scores.corpus
        out.per_image |= scores.per_image
        out.sums += [scores.sums] if scores.sums else []
    return out


@dataclass(frozen=True)
class Scored:
    """A variant's scores, as `write_scores` files them."""

    summary: dict[str, Any]
    "{split: {metric: score}} plus `unavailable` {metric: reason}"
    per_image: pd.DataFrame
    resamples: pd.DataFrame
    "see uncertainty.resample_table"


def score_captions(
    captions: pd.DataFrame, references: References, metrics: list[str], training: Container[str] | None = None
) -> Scored:
    """Score each split of a variant's captions (columns of data/captions/<variant>.parquet).

    Args:
        references: image_id -> references after the PTB tokenizer.
        training: the training captions after the PTB tokenizer; None: it is not asked which captions are new.
    """
    texts = {i: [t] for i, t in zip(captions.image_id, captions.text, strict=True)}
    candidates = {i: tokens[0] for i, tokens in ptb_tokenize(texts).items()}
    summary: dict[str, Any] = {}
    resamples: dict[str, dict[str, Array]] = {}
    images: dict[str, list[str]] = {}
    tables = []
    for split, rows in captions.groupby("split", sort=True):
        rows = rows.sort_values("image_id")  # the same images in the same order for every variant, so that resamples pair
        images[str(split)] = list(rows.image_id)
        said = {i: candidates[i] for i in rows.image_id}
        found = score_set(said, references, metrics)
        if training is not None:
            _add_novel(found, said, training)
        found.corpus |= _confidence(rows, found.per_image.get("cider", {}))
        _add_teacher_forced(found, rows)
        summary[str(split)] = found.corpus
        if found.unavailable:
            summary["unavailable"] = found.unavailable
        resamples[str(split)] = resample(found.sums, len(rows))
        columns = {column: [values.get(i, math.nan) for i in said] for column, values in found.per_image.items()}
        tables.append(rows[["image_id", "split"]].assign(**columns))
    return Scored(summary, pd.concat(tables, ignore_index=True), resample_table(resamples, images))


def _add_novel(found: SetScores, candidates: Candidates, training: Container[str]) -> None:
    """novel: share of captions that are no training caption."""
    novel = {i: float(text not in training) for i, text in candidates.items()}
    found.corpus["novel"] = sum(novel.values()) / len(novel)
    found.per_image["novel"] = novel
    found.sums.append(means_of(candidates, {"novel": novel}))


def _confidence(rows: pd.DataFrame, cider: dict[str, float]) -> dict[str, float]:
    """log_prob_rho: Spearman's rank correlation, over images, of a caption's log-probability per token with its CIDEr.

    Pearson's on average ranks. Left out where there is neither, or where one of them is equal for all images.

    Args:
        cider: image_id -> CIDEr.
    """
    if not {"log_prob", "tokens"} <= set(rows) or not cider:
        return {}
    known = pd.DataFrame({"sure": rows.log_prob / rows.tokens, "good": rows.image_id.map(cider)}).dropna()
    if known.nunique().min() < 2 or known.empty:
        return {}
    ranks = known.rank()
    return {"log_prob_rho": float(ranks.sure.corr(ranks.good))}


def _add_teacher_forced(found: SetScores, rows: pd.DataFrame) -> None:
    """loss (nats per token), perplexity and top-5 accuracy over all references; captions without a model have none."""
    if "reference_nll" in rows:
        sums = Sums(rows[["reference_nll", "reference_tokens", "top5_hits"]].to_numpy(dtype=float), _teacher_forced)
        found.corpus |= {name: float(value) for name, value in _teacher_forced(sums.statistics.sum(0)).items()}
        found.sums.append(sums)


def _teacher_forced(sums: Array) -> dict[str, Array]:
    """(..., 3) -> (...)."""
    nll, tokens, hits = np.moveaxis(sums, -1, 0)
    return {"loss": nll / tokens, "perplexity": np.exp(nll / tokens), "top5": hits / tokens}


def write_scores(scored: Scored, name: str, score_files: Path, scores: Path) -> None:
    """score_files/<name>.json, scores/<name>.parquet and scores/resamples/<name>.parquet."""
    tables = {scores / f"{name}.parquet": scored.per_image, scores / "resamples" / f"{name}.parquet": scored.resamples}
    for path, table in tables.items():
        with whole_file(path) as part:
            table.to_parquet(part, index=False)
    write_json(score_files / f"{name}.json", scored.summary)
