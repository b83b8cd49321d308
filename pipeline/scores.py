"""Captions + references -> scores under the standard protocol: PTB tokenizer on both sides, pycocoevalcap."""

import math
from collections.abc import Container
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.files import whole_file, write_json
from pipeline.java import use_java
from pipeline.metrics.base import References, Unavailable
from pipeline.registry import load


def ptb_tokenize(captions: References) -> References:
    """Lower-cased words without punctuation, by pycocoevalcap's PTBTokenizer (one Java start)."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    use_java()
    # A line end inside a caption, U+2028 too, would silently shift every later caption.
    coco = {i: [{"caption": " ".join(t.split())} for t in texts] for i, texts in captions.items()}
    tokenized: References = PTBTokenizer().tokenize(coco)
    if [len(v) for v in tokenized.values()] != [len(v) for v in captions.values()]:
        raise RuntimeError("the PTB tokenizer returned another number of captions than it was given")
    return tokenized


def training_captions(captions: pd.DataFrame) -> list[str]:
    """The different training captions of a corpus (image_id, text, split) as a model learns them, after the PTB tokenizer.

    Of the cleaned text: a model trained without one-letter words could never repeat a caption as it was published.
    """
    texts = captions.text[captions["split"] == "train"].unique()
    return sorted({text for (text,) in ptb_tokenize({str(n): [text] for n, text in enumerate(texts)}).values()})


def score_captions(
    captions: pd.DataFrame, references: References, metrics: list[str], training: Container[str] | None = None
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score each split of a variant's captions (columns of data/captions/<variant>.parquet).

    Args:
        references: image_id -> references after the PTB tokenizer.
        training: the training captions after the PTB tokenizer; None: it is not asked which captions are new.

    Returns:
        {split: {metric: score}} plus `unavailable` {metric: reason}, and one row per image.
    """
    candidates = {
        i: texts[0]
        for i, texts in ptb_tokenize({i: [t] for i, t in zip(captions.image_id, captions.text, strict=True)}).items()
    }
    summary: dict[str, Any] = {}
    tables = []
    for split, rows in captions.groupby("split", sort=True):
        table = rows[["image_id", "split"]].reset_index(drop=True)
        summary[str(split)] = _score_split({i: candidates[i] for i in table.image_id}, references, metrics, table, summary)
        if training is not None:
            table["novel"] = [float(candidates[i] not in training) for i in table.image_id]
            summary[str(split)]["novel"] = float(table.novel.mean())
        summary[str(split)] |= _confidence(rows, table) | _teacher_forced(rows)
        tables.append(table)
    return summary, pd.concat(tables, ignore_index=True)


def _score_split(
    candidates: dict[str, str], references: References, metrics: list[str], table: pd.DataFrame, summary: dict[str, Any]
) -> dict[str, float]:
    """Adds the per-image columns to `table` and what could not run to `summary`."""
    out: dict[str, float] = {}
    for name in metrics:
        try:
            scores = load("metrics", name).score(candidates, references)
        except Unavailable as reason:
            summary.setdefault("unavailable", {})[name] = str(reason)
            continue
        out |= scores.corpus
        for column, values in scores.per_image.items():
            table[column] = [values.get(i, math.nan) for i in table.image_id]
    return out


def _confidence(rows: pd.DataFrame, table: pd.DataFrame) -> dict[str, float]:
    """log_prob_rho: Spearman's rank correlation, over images, of a caption's log-probability per token with its CIDEr.

    Pearson's on average ranks. Left out where there is neither, or where one of them is equal for all images.

    Args:
        table: the per-image scores, in the order of `rows`.
    """
    if not {"log_prob", "tokens"} <= set(rows) or "cider" not in table:
        return {}
    known = pd.DataFrame({"sure": (rows.log_prob / rows.tokens).to_numpy(), "good": table.cider.to_numpy()}).dropna()
    if known.nunique().min() < 2 or known.empty:
        return {}
    ranks = known.rank()
    return {"log_prob_rho": float(ranks.sure.corr(ranks.good))}


def _teacher_forced(rows: pd.DataFrame) -> dict[str, float]:
    """loss (nats per token), perplexity and top-5 accuracy over all references; absent for captions without a model."""
    if "reference_nll" not in rows:
        return {}
    loss = rows.reference_nll.sum() / rows.reference_tokens.sum()
    return {"loss": loss, "perplexity": math.exp(loss), "top5": rows.top5_hits.sum() / rows.reference_tokens.sum()}


def write_scores(summary: dict[str, Any], per_image: pd.DataFrame, json_file: Path, parquet_file: Path) -> None:
    with whole_file(parquet_file) as part:
        per_image.to_parquet(part, index=False)
    write_json(json_file, summary)
