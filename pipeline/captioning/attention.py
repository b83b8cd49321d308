"""Where a decoder looked for each word of a caption.

This takes one teacher-forced pass over the caption that it generated. T words of a caption, P
positions of a square map of the picture, row by row. The map is the grid of the features, or the
patches of a decoder's own network (see `Decoder.attention`). Nothing is kept while a decoder trains
or captions.
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

COLUMNS = ["image_id", "position", "word", "weights", "rows", "columns", "crops", "pads"]
# Number of decimals of stored weights. In an even map of 24 x 24, each weight is 0.00174.
DECIMALS = 5


@torch.inference_mode()
def attention_maps(decoder: Decoder, f: Features, tokens: Tensor) -> Tensor | None:
    """Return the weights with which each token but the first was chosen.

    No weight is negative, and their sum is 1.

    Args:
        f: features of one image, or of B.
        tokens: of one caption (T + 1,), <start> first, or of one caption for each image (B, T + 1).

    Returns:
        (T, P), or (B, T, P); None if the decoder does not attend. Weights after a caption's own end
            have no meaning.
    """
    decoder.eval()
    weights = decoder.attention(f, tokens[None, :-1] if tokens.ndim == 1 else tokens[:, :-1])
    return weights[0] if weights is not None and tokens.ndim == 1 else weights


def words_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return what each token of a caption shows.

    It is a word, or a piece of one as the tokenizer writes it ("##ning").
    """
    return [str(tokenizer.inner.decode([i], skip_special_tokens=False)).strip() for i in ids]


def explain(
    decoder: Decoder, tokenizer: Tokenizer, f: Features, caption: str
) -> list[tuple[str, list[float]]]:
    """Return (word, its weights (P,)) for each word or word piece of a caption.

    The list is empty if the decoder does not attend.

    Args:
        f: the features of one image, as they are stored.
        caption: the generated text; its end is not a word.
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
    """Return one row per word of each image's caption, with the columns `COLUMNS`.

    A row holds the position of the word, from 0 on, and its weights (P,). There are no rows if the
    decoder does not attend, or if its positions make no square map. Images run one by one, so a row
    depends on no other image. Weights are rounded, so two runs store the same bytes.
    """
    seen = [store.manifest.get(key, False) for key in ("crops", "pads")]
    rows = []
    for image_id, caption in zip(image_ids, captions, strict=True):
        for position, (word, weights) in enumerate(
            explain(decoder, tokenizer, store.get([image_id], device), caption)
        ):
            if shape := grid_shape(len(weights)):
                rounded = np.round(weights, DECIMALS).astype(np.float32)
                rows.append((image_id, position, word, rounded, *shape, *seen))
    return pd.DataFrame(rows, columns=COLUMNS)


def grid_shape(positions: int) -> tuple[int, int] | None:
    """Return the rows and columns of a grid whose positions lie row by row from the top left.

    Networks here see squares, and keep a square map.

    Returns:
        None if the positions make no square. They then have no place in the picture.
    """
    side = isqrt(positions)
    return (side, side) if side > 1 and side * side == positions else None
