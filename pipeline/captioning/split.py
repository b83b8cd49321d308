"""A trained decoder + features -> the captions of a split.

The captions under other searches, and the argmax under teacher forcing, are computed as well.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from pipeline.captioning.attention import attention_rows
from pipeline.captioning.captions import Caption, caption_features
from pipeline.core.progress import bar
from pipeline.data.corpus import SPREAD, spread
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import Batch, CaptionBatches
from pipeline.decoding.likelihood import batch_likelihoods
from pipeline.features.store import FeatureStore

# Number of images that are decoded together.
BATCH = 64
# Number of batches whose tables form one row group of the files.
PART = 16
IMAGE = [("image_id", pa.string()), ("split", pa.string())]
CAPTION = [("text", pa.string()), ("log_prob", pa.float64()), ("tokens", pa.int64())]
ALTERNATIVES = pa.list_(pa.struct([*CAPTION[:2], ("score", pa.float64())]))
SUMS = [
    ("reference_nll", pa.float64()),
    ("reference_tokens", pa.int64()),
    ("top5_hits", pa.int64()),
]
IDS = pa.list_(pa.int64())
# Schemas of the tables of `Captioned`.
SCHEMAS = (
    pa.schema([*IMAGE, *CAPTION, ("alternatives", ALTERNATIVES), *SUMS]),
    pa.schema([("search", pa.string()), *IMAGE, *CAPTION]),
    pa.schema([*IMAGE, ("reference", IDS), ("argmax", IDS)]),
    pa.schema(
        [
            *[
                ("image_id", pa.string()),
                ("position", pa.int64()),
                ("word", pa.string()),
                ("weights", pa.list_(pa.float32())),
            ],
            *[("rows", pa.int64()), ("columns", pa.int64())],
            *[("crops", pa.bool_()), ("pads", pa.bool_())],
        ]
    ),
)


@dataclass(frozen=True)
class Model:
    """A decoder with everything that its captions depend on."""

    decoder: Decoder
    tokenizer: Tokenizer
    store: FeatureStore
    decoding: dict[str, Any]
    device: str


class Captioned(NamedTuple):
    """Tables of images of one split, ordered by image_id."""

    captions: pa.Table
    "One row per image: its caption, and the teacher-forced sums over its references."
    searches: pa.Table
    "One row per image and further search of `decode.also`."
    teacher_forced: pa.Table
    "One row per reference: its token ids and those of the argmax beside it, the end token last."
    attention: pa.Table
    "The rows of attention.attention_rows, only for the test images of the report."


def caption_split(
    model: Model, captions: Iterable[pd.DataFrame], split: str
) -> Iterator[Captioned]:
    """Caption all images of a split, `PART` batches at a time.

    Args:
        captions: tables of that split with image_id, caption_id and text.

    Raises:
        UserError: an image has no features.
    """
    batches = CaptionBatches(captions, model.store, model.tokenizer, BATCH, model.device)
    model.store.check(batches.image_ids, f"features '{model.store.folder.name}'")
    shown = set(spread(batches.image_ids, SPREAD if split == "test" else 0))
    rest = iter(
        bar(batches.in_order(), desc=f"caption {split}", unit="batches", total=len(batches))
    )
    while part := [_caption(model, batch, split, shown) for batch in islice(rest, PART)]:
        yield Captioned(*(pa.concat_tables(tables) for tables in zip(*part, strict=True)))


def _caption(model: Model, batch: Batch, split: str, shown: set[str]) -> Captioned:
    """Caption a batch.

    Args:
        shown: images whose attention is kept.
    """
    known = batch_likelihoods(model.decoder, batch, ids=True)
    found = _decode(model, batch, model.decoding)
    own = [
        {**_row(c), "split": split, "alternatives": _alternatives(c), **vars(k)}
        for c, k in zip(found, known, strict=True)
    ]
    others = {
        search: _decode(model, batch, searched(model.decoding, search))
        for search in model.decoding["also"]
    }
    searches = [
        {**_row(caption), "image_id": image, "split": split, "search": search}
        for image, captions in zip(
            batch.image_ids, zip(*others.values(), strict=True), strict=False
        )
        for search, caption in zip(others, captions, strict=True)
    ]
    forced = [
        {"image_id": image.image_id, "split": split, "reference": reference, "argmax": argmax}
        for image in known
        for reference, argmax in zip(image.references, image.argmax, strict=True)
    ]
    said = {
        image: caption.words
        for image, caption in zip(batch.image_ids, found, strict=True)
        if image in shown
    }
    looked = attention_rows(
        model.decoder, model.tokenizer, model.store, [*said], [*said.values()], model.device
    )
    lists = own, searches, forced, looked.to_dict("records")
    return Captioned(
        *(pa.Table.from_pylist(rows, schema) for rows, schema in zip(lists, SCHEMAS, strict=True))
    )


def _decode(model: Model, batch: Batch, decoding: dict[str, Any]) -> list[Caption]:
    return caption_features(model.decoder, model.tokenizer, batch.features, decoding)


def _row(caption: Caption) -> dict[str, Any]:
    return {"text": caption.text, "log_prob": caption.log_prob, "tokens": caption.tokens}


def _alternatives(caption: Caption) -> list[dict[str, Any]]:
    return [one._asdict() for one in caption.alternatives]


def searched(decoding: dict[str, Any], search: str) -> dict[str, Any]:
    """Return the decoding settings with another search: `greedy` or `beam-<k>`."""
    beam = 1 if search == "greedy" else int(search.removeprefix("beam-"))
    return {**decoding, "beam": beam, "samples": 0, "alternatives": 1}
