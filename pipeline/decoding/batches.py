"""Corpus + features -> batches of images.

Each image's features are stored once; its captions are rows that point to it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.core.machine import ahead
from pipeline.data.array_on_disk import ArrayOnDisk, taken
from pipeline.data.image_ids import ImageIds, encoded
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features
from pipeline.features.store import FeatureStore

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Size(NamedTuple):
    """Size of a batch. Only tokens that are predicted are counted."""

    images: int
    captions: int
    tokens: int


@dataclass(frozen=True)
class Batch:
    """I images, R caption rows, T + 1 tokens: <start> words <end> pad..."""

    image_ids: list[str]
    features: Features
    tokens: "Tensor"  # (R, T + 1) long
    mask: "Tensor"  # (R, T + 1) bool, False on padding
    rows: "Tensor"  # (R,) long, the image of each row

    @property
    def size(self) -> Size:
        return Size(len(self.image_ids), len(self.tokens), int(self.mask[:, 1:].sum()))

    def parts(self, images: int) -> "Iterator[Batch]":
        """Yield batches of at most `images` images, without padding that none of their captions
        needs."""
        import torch

        for start in range(0, len(self.image_ids), images):
            ids = self.image_ids[start : start + images]
            chosen = (self.rows >= start) & (self.rows < start + len(ids))
            mask = self.mask[chosen]
            width = int(mask.sum(1).max())
            yield Batch(
                ids,
                self.features.select(torch.arange(start, start + len(ids), device=mask.device)),
                self.tokens[chosen, :width],
                mask[:, :width],
                self.rows[chosen] - start,
            )


class Share(NamedTuple):
    """The share of a batch that one of several processes has."""

    batch: Batch | None
    "None if the share has no images, because the batch has fewer images than processes."
    whole: Size


class CaptionBatches:
    """Batches of one split.

    The order depends only on (seed, epoch), so an epoch can be entered at any batch.

    Args:
        captions: tables with image_id, caption_id and text, in any order. Only token ids are kept
            of their texts.
    """

    def __init__(
        self,
        captions: Iterable[pd.DataFrame],
        store: FeatureStore,
        tokenizer: Tokenizer,
        batch_images: int,
        device: str,
    ):
        self.store, self.device, self.batch_images = store, device, batch_images
        self.rank, self.count = 0, 1
        self.pad = tokenizer.special.pad
        images, names, self.ids, lengths = _encode(captions, tokenizer)
        order = np.lexsort((names, images))
        bounds = np.append(0, lengths.cumsum())
        # Caption n has the tokens starts[n] .. ends[n].
        self.starts, self.ends = taken(bounds[:-1], order), taken(bounds[1:], order)
        images = taken(images, order)
        news = np.append(True, images[1:] != images[:-1])[: len(images)]
        # Image n has the captions first[n] .. first[n + 1].
        self.first = np.flatnonzero(np.append(news, True))
        self.image_ids = ImageIds.of(taken(images, self.first[:-1]))

    def __len__(self) -> int:
        return -(-len(self.image_ids) // self.batch_images)

    def caption(self, n: int) -> np.ndarray:
        """Return the tokens of caption n, (T + 1,)."""
        return self.ids[self.starts[n] : self.ends[n]]

    def shared(self, rank: int, count: int) -> "CaptionBatches":
        """Return the same batches, with only share `rank` of `count` of each.

        All shares have about the same number of images.
        """
        found = copy(self)
        found.rank, found.count = rank, count
        return found

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of a shuffled epoch from number `skip` on."""
        return (share.batch for share in self.shares(seed, epoch, skip) if share.batch)

    def shares(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Share]:
        """Like `epoch`, but also yield batches in which this share has no images."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.image_ids))
        return self._read(self._share, self._parts(order, skip))

    def in_order(self) -> Iterator[Batch]:
        parts = map(self._own, self._parts(np.arange(len(self.image_ids)), 0))
        return self._read(self._batch, [part for part in parts if len(part)])

    def _parts(self, order: np.ndarray, skip: int) -> list[np.ndarray]:
        return [
            order[n * self.batch_images : (n + 1) * self.batch_images]
            for n in range(skip, len(self))
        ]

    def _own(self, images: np.ndarray) -> np.ndarray:
        return np.array_split(images, self.count)[self.rank]

    def _read(self, read: Callable[[np.ndarray], T], parts: list[np.ndarray]) -> Iterator[T]:
        """Read the parts in order.

        For a GPU, the next ones are read while it works. On a CPU, a second thread would take cores
        from training.
        """
        if self.device == "cpu":
            yield from map(read, parts)
            return
        with ThreadPoolExecutor(1) as reader:
            yield from ahead(reader, read, parts, 2)

    def _share(self, images: np.ndarray) -> Share:
        own = self._own(images)
        captions = np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in images])
        tokens = int((self.ends[captions] - self.starts[captions] - 1).sum())
        whole = Size(len(images), len(captions), tokens)
        return Share(self._batch(own) if len(own) else None, whole)

    def _batch(self, images: np.ndarray) -> Batch:
        image_ids = [self.image_ids[i] for i in images]
        captions = [
            self.caption(n) for i in images for n in range(self.first[i], self.first[i + 1])
        ]
        counts = [self.first[i + 1] - self.first[i] for i in images]
        tokens, mask = pad_rows(captions, self.pad)
        rows = np.repeat(np.arange(len(images)), counts)
        return Batch(
            image_ids,
            self.store.get(image_ids, self.device),
            *(_tensor(a, self.device) for a in (tokens, mask, rows)),
        )


def _encode(captions: Iterable[pd.DataFrame], tokenizer: Tokenizer) -> list[NDArray[Any]]:
    """Return four arrays for N captions, all from temporary files.

    They are their image ids and caption ids (both (N,), `encoded`), the token ids of all captions
    in a row, and the number of tokens of each (N,).
    """
    kind = np.min_scalar_type(max(tokenizer.words().values()))
    found = [ArrayOnDisk() for _ in range(4)]
    empty = pd.DataFrame({"image_id": [], "caption_id": [], "text": []})
    for rows in chain([empty], captions):
        ids = list(tokenizer.encode_each(rows["text"]))
        parts = encoded(rows["image_id"]), encoded(rows["caption_id"])
        tokens = np.fromiter(chain.from_iterable(ids), kind)
        lengths = np.fromiter(map(len, ids), np.int64)
        for array, part in zip(found, (*parts, tokens, lengths), strict=True):
            array.extend(part)
    return [array.array() for array in found]


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
