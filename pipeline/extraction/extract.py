"""Images -> data/features/<name>/: a part for each shard of pictures (float16, int8 or the
encoder's own type), resumable after any interruption: the shards that were done stay."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.core.machine import ahead
from pipeline.core.progress import bar
from pipeline.data.checked import read_json
from pipeline.data.files import (
    digest,
    fingerprint,
    loaded_code,
    named_files,
    remove,
    whole_folder,
    write_json,
)
from pipeline.data.shards import Member, Shards
from pipeline.encoders.shared.base import Encoder
from pipeline.features.features import Features, parts
from pipeline.features.parts import part_file
from pipeline.features.quantise import grid_dtype, to_int8
from pipeline.images.reading import ImageError, read_image

if TYPE_CHECKING:
    from torch import Tensor

Batch: TypeAlias = "tuple[Tensor | None, list[int], list[dict[str, Any]]]"
"pixels (n, 3, S, S), their rows in the shard, and the images that were rejected"


def extract(
    encoder: Encoder,
    shards: Shards,
    folder: Path,
    about: dict[str, Any],
    device: str,
    threads: int,
    batch: int = 32,
) -> None:
    """Run every image through the encoder once.

    Args:
        shards: the images.
        about: what names this feature set (encoder, arguments; without them dtype: float16 and
            keep: both), kept in manifest.json.
        batch: images per forward pass, all of one shard; the result does not depend on it.

    Raises:
        UserError: no image could be read, a shard is not what the index says, or the encoder is
            not to be stored in this dtype.
    """
    about = {"dtype": "float16", "keep": "both", **about}
    try:
        kind = grid_dtype(encoder, about["dtype"])
    except UserError as error:
        raise UserError(f"features.{folder.name}: {error}") from None
    made_by = [about, named_files(about.get("args", {})), loaded_code(), device]
    key = fingerprint([made_by, digest(shards.index)])
    stamps = [_stamp(members[0].shard) for members in shards.by_shard()]
    encoder = encoder.to(device)
    with whole_folder(folder, keep_partial=True) as part:
        done = _resume(part, key, stamps)
        for members, batches in _by_shard(encoder, shards, len(done), batch, threads):
            arrays = _arrays(part, len(done), len(members), encoder, kind, about)
            rejected = []
            for pixels, good, bad in batches:
                if pixels is not None:
                    features = encoder(pixels.to(device))
                    for name, values in _as_kept(features, about).items():
                        _put(arrays[name], good, values)
                rejected += bad
            done.append({"stamp": stamps[len(done)], "rejected": rejected})
            _remember(part, key, done, arrays)
        shapes = {
            "grid": (len(shards), encoder.positions, encoder.grid_dim),
            "pooled": (len(shards), encoder.pooled_dim),
        }
        crops = getattr(encoder, "crops", False)
        rejected = [row for shard in done for row in shard["rejected"]]
        _finish(part, shards, rejected, {**about, "crops": crops, "shapes": shapes})


def _as_kept(f: Features, about: dict[str, Any]) -> "dict[str, Tensor]":
    """By the name of the file."""
    kept: dict[str, Tensor] = {name: getattr(f, name) for name in parts(about["keep"])}
    if about["dtype"] != "int8":
        return kept
    both = {name: to_int8(values) for name, values in kept.items()}
    scales = {f"{name}_scale": scale for name, (_, scale) in both.items()}
    return {name: values for name, (values, _) in both.items()} | scales


def _put(array: np.memmap, rows: list[int], values: "Tensor") -> None:
    """Rows that mostly follow each other, converted by torch: numpy takes many times as long to
    make bytes of float16."""
    import torch

    dense = rows[-1] - rows[0] + 1 == len(rows)
    place = slice(rows[0], rows[-1] + 1) if dense else rows
    array[place] = values.to(getattr(torch, array.dtype.name)).contiguous().cpu().numpy()


def _stamp(shard: Path) -> list[int]:
    """Its size and time of change, so that no resumed run mixes old pictures with new ones."""
    try:
        about = shard.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


def _resume(part: Path, key: str, stamps: list[list[int]]) -> list[dict[str, Any]]:
    """The first shards, as far as an interrupted run of the very same feature set has done them and
    they have not changed since; what another run left is removed."""
    with suppress(UserError, KeyError, TypeError):  # none, or damaged: nothing is done
        state = read_json(part / "progress.json")
        if state["key"] == key:
            done = [
                {"stamp": list(shard["stamp"]), "rejected": list(shard["rejected"])}
                for shard in state["shards"]
            ]
            same = [shard["stamp"] == stamp for shard, stamp in zip(done, stamps, strict=False)]
            return done[: [*same, False].index(False)]
    for file in part.iterdir():
        remove(file)
    return []


def _remember(
    part: Path, key: str, done: list[dict[str, Any]], arrays: dict[str, np.memmap]
) -> None:
    for array in arrays.values():
        array.flush()
    write_json(part / "progress.json", {"key": key, "shards": done})


def _arrays(
    part: Path, number: int, count: int, encoder: Encoder, kind: str, about: dict[str, Any]
) -> dict[str, np.memmap]:
    """Of one shard. Args: kind: the dtype of the grid; that of the pooled vectors is told by
    `about`."""
    every: dict[str, tuple[tuple[int, ...], str]] = {
        "grid": ((count, encoder.positions, encoder.grid_dim), kind),
        "pooled": ((count, encoder.pooled_dim), about["dtype"]),
    }
    files: dict[str, tuple[tuple[int, ...], str]] = {p: every[p] for p in parts(about["keep"])}
    if about["dtype"] == "int8":
        files |= {f"{name}_scale": (shape[:-1], "float32") for name, (shape, _) in files.items()}
    return {
        name: _array(part / part_file(name, number), shape, its)
        for name, (shape, its) in files.items()
    }


def _array(file: Path, shape: tuple[int, ...], kind: str) -> np.memmap:
    array = np.lib.format.open_memmap(file, "w+", np.dtype(kind), shape)
    if hasattr(
        os, "posix_fallocate"
    ):  # a write into a hole of a map on a full disk is a bus error; this is an OSError
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return array


def _by_shard(
    encoder: Encoder, shards: Shards, done: int, batch: int, threads: int
) -> Iterator[tuple[list[Member], Iterator[Batch]]]:
    """The pictures of each shard after the first `done`, and its batches, to be taken before the
    next shard; decoding runs ahead in threads, into the shards to come."""

    def read(member: Member) -> "Tensor | str":
        try:
            return encoder.transform(read_image(member.read()))
        except ImageError as error:
            return str(error)

    todo, again = shards.by_shard(), shards.by_shard()
    before = sum(len(members) for members in islice(todo, done))
    coming = chain.from_iterable(islice(again, done, None))
    with (
        ThreadPoolExecutor(threads) as pool,
        bar(desc="extract", unit="images", total=len(shards), initial=before) as progress,
    ):
        decoded = ahead(pool, read, coming, 4 * batch)
        for members in todo:
            yield members, _batches(members, decoded, batch)
            progress.update(len(members))


def _batches(
    members: list[Member], decoded: "Iterator[Tensor | str]", batch: int
) -> Iterator[Batch]:
    """Args: decoded: the pixels of each picture, or why there are none."""
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


def _finish(
    part: Path, shards: Shards, rejected: list[dict[str, Any]], about: dict[str, Any]
) -> None:
    ids = pq.read_table(shards.index, columns=["image_id"])["image_id"].cast(pa.string())
    bad = pa.array([row["image_id"] for row in rejected], pa.string())
    good = pc.invert(pc.is_in(ids, bad))
    if not pc.any(good).as_py():
        first = rejected[0]["reason"] if rejected else "there is none"
        raise UserError(
            f"no image could be read for these features (first: {first}): check the data "
            "set's images"
        )
    rows = np.flatnonzero(good.to_numpy())
    pq.write_table(pa.table({"image_id": ids.filter(good), "row": rows}), part / "ids.parquet")
    reasons = pa.schema([("image_id", pa.string()), ("reason", pa.string())])
    pq.write_table(pa.Table.from_pylist(rejected, reasons), part / "rejected.parquet")
    write_json(part / "manifest.json", {**about, "rejected": len(rejected)})
    (part / "progress.json").unlink()
