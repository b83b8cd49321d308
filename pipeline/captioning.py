"""A trained decoder + features -> the rows of data/captions/<variant>.parquet."""

from dataclasses import asdict
from typing import Any

import pandas as pd

from pipeline.batches import CaptionBatches
from pipeline.decode import Caption, caption_features
from pipeline.decoders.base import Decoder
from pipeline.features import FeatureStore
from pipeline.likelihood import likelihoods
from pipeline.progress import bar
from pipeline.tokenizers import Tokenizer


def caption_split(
    decoder: Decoder,
    tokenizer: Tokenizer,
    captions: pd.DataFrame,
    split: str,
    store: FeatureStore,
    decoding: dict[str, Any],
    device: str,
) -> pd.DataFrame:
    """One row per image of the split, ordered by image_id: its caption, and the teacher-forced sums over its references."""
    batches = CaptionBatches(captions[captions.split == split], store, tokenizer, 64, device)
    ids = batches.image_ids
    found: list[Caption] = []
    for start in bar(range(0, len(ids), 64), desc=f"caption {split}", unit="batches"):
        found += caption_features(decoder, tokenizer, store.get(ids[start : start + 64], device), decoding)
    rows = [{"image_id": i, "split": split, **_columns(c)} for i, c in zip(ids, found, strict=True)]
    teacher_forced = pd.DataFrame([asdict(r) for r in likelihoods(decoder, batches)])
    return pd.DataFrame(rows).merge(teacher_forced, on="image_id", validate="one_to_one")


def _columns(caption: Caption) -> dict[str, Any]:
    alternatives = [{"text": text, "log_prob": log_prob} for text, log_prob in caption.alternatives]
    return {"text": caption.text, "log_prob": caption.log_prob, "tokens": caption.tokens, "alternatives": alternatives}
