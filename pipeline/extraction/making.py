"""Make the features of one shard of pictures: write its arrays to disk, and list the rejected
pictures. A stage in one process and the actors of a cluster share this code."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.machine import ahead
from pipeline.data.shards import Member
from pipeline.encoders.shared.base import Encoder
from pipeline.features.features import Features, parts
from pipeline.features.parts import part_file
from pipeline.features.quantise import grid_dtype, not_finite, to_int8
from pipeline.images.reading import ImageError, read_image

if TYPE_CHECKING:
    from torch import Tensor

# Pixels (n, 3, S, S), their rows in the shard, and the rejected images.
Batch: TypeAlias = "tuple[Tensor | None, list[int], list[dict[str, Any]]]"


class Maker:
    """Writes the arrays of shards with one encoder.

    Args:
        about: describes the feature set; its dtype and keep are used.
        threads: number of threads that decode pictures.
        batch: images per forward pass, all from one shard. The result does not depend on it.

    Raises:
        UserError: the encoder's grid cannot be stored in this dtype.
    """

    def __init__(
        self, encoder: Encoder, about: dict[str, Any], device: str, threads: int, batch: int
    ):
        # The dtype of the grid; that of the pooled vectors is in `about`.
        self.kind = grid_dtype(encoder, about["dtype"])
        self.encoder, self.about, self.device = encoder.to(device), about, device
        self.threads, self.batch = threads, batch

    @contextmanager
    def decoding(self, members: Iterable[Member]) -> "Iterator[Iterator[Tensor | str]]":
        """Provide an iterator over the pixels of each picture, or over the reason why there are
        none. Decoding runs ahead in threads."""

        def read(member: Member) -> "Tensor | str":
            try:
                return self.encoder.transform(read_image(member.read()))
            except ImageError as error:
                return str(error)

        with ThreadPoolExecutor(self.threads) as pool:
            yield ahead(pool, read, members, 4 * self.batch)

    def make(
        self, folder: Path, number: int, members: list[Member], decoded: "Iterator[Tensor | str]"
    ) -> list[dict[str, Any]]:
        """Write the arrays of shard `number` into `folder`.

        Args:
            decoded: results of `decoding` for these members; results for later members may follow.

        Returns:
            image_id and reason of each rejected picture.

        Raises:
            UserError: a value is not finite, or not in the type in which it is stored.
        """
        arrays = self._arrays(folder, number, len(members))
        rejected = []
        for pixels, good, bad in _batches(members, decoded, self.batch):
            if pixels is not None:
                features = self.encoder(pixels.to(self.device))
                for name, values in _as_kept(features, self.about).items():
                    if (row := _put(arrays[name], good, values)) is not None:
                        raise UserError(
                            f"the {name} of image {members[row].image_id} is not finite in "
                            f"{arrays[name].dtype}: {self._cure()}"
                        )
            rejected += bad
        for array in arrays.values():
            array.flush()
        return rejected

    def _cure(self) -> str:
        if self.about["dtype"] == "int8":
            return "the encoder's weights or its computation are at fault"
        return "write dtype: int8, whose range is that of float32, or check the encoder's weights"

    def files(self) -> list[str]:
        """Return the names of a shard's arrays."""
        names = list(parts(self.about["keep"]))
        scales = [f"{name}_scale" for name in names] if self.about["dtype"] == "int8" else []
        return names + scales

    def _arrays(self, folder: Path, number: int, count: int) -> dict[str, np.memmap]:
        encoder, dtype = self.encoder, self.about["dtype"]
        shapes: dict[str, tuple[int, ...]] = {
            "grid": (count, encoder.positions, encoder.grid_dim),
            "pooled": (count, encoder.pooled_dim),
        }
        kinds = {"grid": self.kind, "pooled": dtype}
        for name in list(shapes):
            shapes[f"{name}_scale"], kinds[f"{name}_scale"] = shapes[name][:-1], "float32"
        return {
            name: _array(folder / part_file(name, number), shapes[name], kinds[name])
            for name in self.files()
        }


def _as_kept(f: Features, about: dict[str, Any]) -> "dict[str, Tensor]":
    """Return the values to store, by the name of their file."""
    kept: dict[str, Tensor] = {name: getattr(f, name) for name in parts(about["keep"])}
    if about["dtype"] != "int8":
        return kept
    both = {name: to_int8(values) for name, values in kept.items()}
    scales = {f"{name}_scale": scale for name, (_, scale) in both.items()}
    return {name: values for name, (values, _) in both.items()} | scales


def _put(array: np.memmap, rows: list[int], values: "Tensor") -> int | None:
    """Write values into their rows, most of which are consecutive. torch converts them, because
    numpy takes many times as long to turn float16 into bytes.

    Returns:
        the first row whose values are not finite once they are converted, if there is one.
    """
    import torch

    dense = rows[-1] - rows[0] + 1 == len(rows)
    place = slice(rows[0], rows[-1] + 1) if dense else rows
    stored = values.to(getattr(torch, array.dtype.name)).contiguous()
    array[place] = stored.cpu().numpy()
    bad = not_finite(stored)
    return None if bad is None else rows[bad]


def _array(file: Path, shape: tuple[int, ...], kind: str) -> np.memmap:
    array = np.lib.format.open_memmap(file, "w+", np.dtype(kind), shape)
    if hasattr(os, "posix_fallocate"):
        # On a full disk, writing into a hole of a memory map is a bus error; this is an OSError.
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return array


def _batches(
    members: list[Member], decoded: "Iterator[Tensor | str]", batch: int
) -> Iterator[Batch]:
    """Yield the pictures in batches.

    Args:
        decoded: the pixels of each picture, or the reason why there are none.
    """
    import torch

    for start in range(0, len(members), batch):
        results = list(islice(decoded, min(batch, len(members) - start)))
        rows = range(start, start + len(results))
        good = [row for row, r in zip(rows, results, strict=True) if not isinstance(r, str)]
        pixels = [r for r in results if not isinstance(r, str)]
        bad = [
            {"image_id": members[row].image_id, "reason": r}
            for row, r in zip(rows, results, strict=True)
            if isinstance(r, str)
        ]
        yield torch.stack(pixels) if pixels else None, good, bad
