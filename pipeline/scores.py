"""Captions + references -> scores under the standard protocol: PTB tokenizer on both sides, pycocoevalcap."""

import math
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


def score_captions(captions: pd.DataFrame, references: References, metrics: list[str]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score each split of a variant's captions (columns of data/captions/<variant>.parquet).

    Args:
        references: image_id -> references after the PTB tokenizer.

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
        summary[str(split)] |= _teacher_forced(rows)
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
            table[column] = table.image_id.map(values)
    return out


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
