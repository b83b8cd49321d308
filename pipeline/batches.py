"""Corpus + features -> batches of images. Each image's features stand once; its captions are rows that point at it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.encoders.base import Features
from pipeline.features import FeatureStore, ahead
from pipeline.tokenizers import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """I images, R caption rows, T + 1 tokens: <start> words <end> pad..."""

    image_ids: list[str]
    features: Features
    tokens: "Tensor"  # (R, T + 1) long
    mask: "Tensor"  # (R, T + 1) bool, False on padding
    rows: "Tensor"  # (R,) long, the image of each row


class CaptionBatches:
    """Batches of one split; the order depends on (seed, epoch) alone, so an epoch can be entered at any batch."""

    def __init__(self, captions: pd.DataFrame, store: FeatureStore, tokenizer: Tokenizer, batch_images: int, device: str):
        self.store, self.device, self.batch_images = store, device, batch_images
        self.pad = tokenizer.special.pad
        captions = captions.sort_values(["image_id", "caption_id"])
        self.ids, lengths = _encode(captions.text, tokenizer)
        self.offsets = np.append(0, np.cumsum(lengths))  # caption n is ids[offsets[n]:offsets[n + 1]]
        image_ids, first = np.unique(captions.image_id.to_numpy(dtype=str), return_index=True)
        self.image_ids: list[str] = image_ids.tolist()
        self.first = np.append(first, len(captions))  # image n has captions first[n] .. first[n + 1]

    def __len__(self) -> int:
        return -(-len(self.image_ids) // self.batch_images)

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """All batches of a shuffled epoch from number `skip` on."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.image_ids))
        return self._batches(order, skip)

    def in_order(self) -> Iterator[Batch]:
        return self._batches(np.arange(len(self.image_ids)), 0)

    def _batches(self, order: np.ndarray, skip: int) -> Iterator[Batch]:
        """For a GPU the next ones are read while it works; on a CPU a second thread would take cores from training."""
        parts = [order[n * self.batch_images : (n + 1) * self.batch_images] for n in range(skip, len(self))]
        if self.device == "cpu":
            yield from map(self._batch, parts)
            return
        with ThreadPoolExecutor(1) as reader:
            yield from ahead(reader, self._batch, parts, 2)

    def _batch(self, images: np.ndarray) -> Batch:
        image_ids = [self.image_ids[i] for i in images]
        captions = [
            self.ids[self.offsets[c] : self.offsets[c + 1]] for i in images for c in range(self.first[i], self.first[i + 1])
        ]
        counts = [self.first[i + 1] - self.first[i] for i in images]
        tokens, mask = pad_rows(captions, self.pad)
        rows = np.repeat(np.arange(len(images)), counts)
        return Batch(
            image_ids, self.store.get(image_ids, self.device), *(_tensor(a, self.device) for a in (tokens, mask, rows))
        )


def _encode(texts: pd.Series, tokenizer: Tokenizer, many: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all captions in a row and the length of each; few at a time, since an encoded caption takes kilobytes at first."""
    ids, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for start in range(0, len(texts), many):
        encoded = tokenizer.encode(texts.iloc[start : start + many].tolist())
        lengths.append(np.fromiter(map(len, encoded), np.int64))
        ids.append(np.fromiter((i for row in encoded for i in row), np.int32))
    return np.concatenate(ids), np.concatenate(lengths)


def pad_rows(rows: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows -> (R, T) int64 filled with `pad`, and its mask (R, T) bool."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.full(mask.shape, pad, np.int64)
    tokens[mask] = np.concatenate(rows)
    return tokens, mask


def _tensor(array: np.ndarray, device: str) -> "Tensor":
    import torch

    return torch.from_numpy(array).to(device)
