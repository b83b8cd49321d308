"""A trained decoder + features -> the captions of a split, the same under other searches, and argmax under teacher forcing."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.attention import attention_rows
from pipeline.batches import CaptionBatches
from pipeline.corpus import SPREAD, spread
from pipeline.decode import Caption, caption_features
from pipeline.decoders.base import Decoder
from pipeline.features import FeatureStore
from pipeline.likelihood import Likelihood, likelihoods
from pipeline.progress import bar
from pipeline.tokenizers import Tokenizer

BATCH = 64
"images that are decoded together"


@dataclass(frozen=True)
class Model:
    """A decoder with all that its captions depend on."""

    decoder: Decoder
    tokenizer: Tokenizer
    store: FeatureStore
    decoding: dict[str, Any]
    device: str


@dataclass(frozen=True)
class Captioned:
    """Tables of one split, ordered by image_id."""

    captions: pd.DataFrame
    "a row per image: its caption, and the teacher-forced sums over its references"
    searches: pd.DataFrame
    "a row per image and further search of `decode.also`: search, image_id, split, text, log_prob, tokens"
    teacher_forced: pd.DataFrame
    "a row per reference: image_id, split, reference and argmax (token ids, the end token last)"
    attention: pd.DataFrame
    "see attention.attention_rows; of the test images of the report"


def caption_split(model: Model, captions: pd.DataFrame, split: str) -> Captioned:
    """Args: captions: image_id, text, split; of a corpus."""
    batches = CaptionBatches(captions[captions.split == split], model.store, model.tokenizer, BATCH, model.device)
    found = decode_images(model, batches.image_ids, model.decoding, f"caption {split}")
    known = list(likelihoods(model.decoder, batches, ids=True))
    own = found.assign(split=split).merge(_sums(known), on="image_id", validate="one_to_one")
    others = [
        decode_images(model, batches.image_ids, searched(model.decoding, search), f"caption {split}, {search}").assign(
            search=search, split=split
        )
        for search in model.decoding["also"]
    ]
    columns = ["search", "image_id", "split", "text", "log_prob", "tokens"]
    searches = pd.concat(others)[columns] if others else pd.DataFrame(columns=columns)
    shown = own[own.image_id.isin(spread(own.image_id, SPREAD if split == "test" else 0))]
    looked = attention_rows(model.decoder, model.tokenizer, model.store, list(shown.image_id), list(shown.text), model.device)
    own = own[["image_id", "split", *own.columns.drop(["image_id", "split"])]]
    return Captioned(own, searches, _ids(known, split), looked)


def searched(decoding: dict[str, Any], search: str) -> dict[str, Any]:
    """The decoding with another search: `greedy` or `beam-<k>`."""
    beam = 1 if search == "greedy" else int(search.removeprefix("beam-"))
    return {**decoding, "beam": beam, "samples": 0, "alternatives": 1}


def decode_images(model: Model, image_ids: list[str], decoding: dict[str, Any], label: str) -> pd.DataFrame:
    """image_id, text, log_prob, tokens, alternatives."""
    found: list[Caption] = []
    for start in bar(range(0, len(image_ids), BATCH), desc=label, unit="batches"):
        features = model.store.get(image_ids[start : start + BATCH], model.device)
        found += caption_features(model.decoder, model.tokenizer, features, decoding)
    return pd.DataFrame([{"image_id": i, **_columns(c)} for i, c in zip(image_ids, found, strict=True)])


def _columns(caption: Caption) -> dict[str, Any]:
    alternatives = [{"text": text, "log_prob": log_prob} for text, log_prob in caption.alternatives]
    return {"text": caption.text, "log_prob": caption.log_prob, "tokens": caption.tokens, "alternatives": alternatives}


def _sums(known: list[Likelihood]) -> pd.DataFrame:
    names = ["image_id", "reference_nll", "reference_tokens", "top5_hits"]
    return pd.DataFrame([[getattr(image, name) for name in names] for image in known], columns=names)


def _ids(known: list[Likelihood], split: str) -> pd.DataFrame:
    rows = [
        (image.image_id, split, reference, argmax)
        for image in known
        for reference, argmax in zip(image.references, image.argmax, strict=True)
    ]
    return pd.DataFrame(rows, columns=["image_id", "split", "reference", "argmax"])
