"""Where a decoder looked for each word of a caption, from one teacher-forced pass over the caption
it gave.

T words of a caption, P positions of a square map of the picture, row by row: the grid of the
features, or the patches of a decoder's own network (see `Decoder.attention`). Nothing is kept while
a decoder trains or captions.
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features
from pipeline.features.store import FeatureStore

COLUMNS = ["image_id", "position", "word", "weights", "rows", "columns", "crops"]
DECIMALS = 5
"of stored weights; an even map of 24 x 24 has 0.00174"


@torch.inference_mode()
def attention_maps(decoder: Decoder, f: Features, tokens: Tensor) -> Tensor | None:
    """Weights, none negative, of sum 1, with which each token but the first was chosen. None: the
    decoder does not attend.

    Args:
        f: of one image, or of B.
        tokens: of one caption (T + 1,), <start> first, or of one caption for each image (B, T + 1).

    Returns:
        (T, P), or (B, T, P); what stands after a caption's own end means nothing.
    """
    decoder.eval()
    weights = decoder.attention(f, tokens[None, :-1] if tokens.ndim == 1 else tokens[:, :-1])
    return weights[0] if weights is not None and tokens.ndim == 1 else weights


def words_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token of a caption shows: a word, or the piece of one as its tokenizer writes it
    ("##ning")."""
    return [str(tokenizer.inner.decode([i], skip_special_tokens=False)).strip() for i in ids]


def explain(
    decoder: Decoder, tokenizer: Tokenizer, f: Features, caption: str
) -> list[tuple[str, list[float]]]:
    """(word, its weights (P,)) for each word or word piece of a caption; empty where the decoder
    does not attend.

    Args:
        f: the features of one image, as they are stored.
        caption: the text that was generated; its end is no word.
    """
    ids = tokenizer.encode([caption])[0][:-1]
    if len(ids) < 2:
        return []
    maps = attention_maps(decoder, f, torch.tensor(ids, device=f.pooled.device))
    return (
        [] if maps is None else list(zip(words_of(tokenizer, ids[1:]), maps.tolist(), strict=True))
    )


def attention_rows(
    decoder: Decoder,
    tokenizer: Tokenizer,
    store: FeatureStore,
    image_ids: Sequence[str],
    captions: Sequence[str],
    device: str,
) -> pd.DataFrame:
    """A row per word of each image's caption: `COLUMNS`, with the position of the word from 0 on
    and its weights (P,).

    No rows where the decoder does not attend, or over positions that make no square map. Images run
    one by one, so that a row depends on no other image, and weights are rounded, so that two runs
    store the same bytes.
    """
    rows = []
    for image_id, caption in zip(image_ids, captions, strict=True):
        for position, (word, weights) in enumerate(
            explain(decoder, tokenizer, store.get([image_id], device), caption)
        ):
            if shape := grid_shape(len(weights)):
                rounded = np.round(weights, DECIMALS).astype(np.float32)
                rows.append(
                    (image_id, position, word, rounded, *shape, store.manifest.get("crops", False))
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def grid_shape(positions: int) -> tuple[int, int] | None:
    """Rows and columns of a grid, which lie row by row from the top left: networks here see
    squares, and keep a square map.

    None: no square, so that no position has a place in the picture.
    """
    side = isqrt(positions)
    return (side, side) if side > 1 and side * side == positions else None
