"""Images -> data/features/<name>/: memory maps (float16, int8 or the encoder's own type), resumable
after any interruption."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
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
    whole_folder,
    write_json,
)
from pipeline.data.shards import Member, Shards
from pipeline.encoders.shared.base import Encoder
from pipeline.features.features import Features
from pipeline.features.quantise import grid_dtype, to_int8
from pipeline.images.reading import ImageError, read_image

if TYPE_CHECKING:
    from torch import Tensor


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
        about: what names this feature set (encoder, arguments, dtype: float16 without it), kept in
            manifest.json.
        batch: images per forward pass; the result does not depend on it.

    Raises:
        UserError: no image could be read, a shard is not what the index says, or the encoder is
            not to be stored in this dtype.
    """
    about = {"dtype": "float16", **about}
    try:
        kind = grid_dtype(encoder, about["dtype"])
    except UserError as error:
        raise UserError(f"features.{folder.name}: {error}") from None
    made_by = [about, named_files(about.get("args", {})), loaded_code(), device]
    images = list(shards)
    key = fingerprint([made_by, _stamp(shards)])
    encoder = encoder.to(device)
    with whole_folder(folder, keep_partial=True) as part:
        done, rejected = _resume(part, key)
        arrays = _arrays(part, len(images), encoder, kind, about["dtype"], fresh=done == 0)
        for start, pixels, good, bad in _batches(encoder, images, done, batch, threads):
            if pixels is not None:
                features = encoder(pixels.to(device))
                for name, values in _as_kept(features, about["dtype"]).items():
                    _put(arrays[name], good, values)
            rejected += bad
            if start // batch % 16 == 15:
                _remember(part, key, start + batch, rejected, arrays)
        _remember(part, key, len(images), rejected, arrays)
        _finish(
            part, images, rejected, {**about, "crops": getattr(encoder, "crops", False)}, arrays
        )


def _as_kept(f: Features, dtype: str) -> "dict[str, Tensor]":
    """By the name of the file."""
    if dtype != "int8":
        return {"grid": f.grid, "pooled": f.pooled}
    (grid, grid_scale), (pooled, pooled_scale) = to_int8(f.grid), to_int8(f.pooled)
    return {"grid": grid, "grid_scale": grid_scale, "pooled": pooled, "pooled_scale": pooled_scale}


def _put(array: np.memmap, rows: list[int], values: "Tensor") -> None:
    """Rows that mostly follow each other, converted by torch: numpy takes many times as long to
    make bytes of float16."""
    import torch

    dense = rows[-1] - rows[0] + 1 == len(rows)
    place = slice(rows[0], rows[-1] + 1) if dense else rows
    array[place] = values.to(getattr(torch, array.dtype.name)).contiguous().cpu().numpy()


def _stamp(shards: Shards) -> list[Any]:
    """Of the index, and of each shard its size and time of change, so that no resumed run mixes old
    pictures with new ones."""
    found: list[Any] = [digest(shards.index)]
    for path in dict.fromkeys(member.shard for member in shards):
        with suppress(OSError):
            about = path.stat()
            found.append([path.name, about.st_size, about.st_mtime_ns])
    return found


def _resume(part: Path, key: str) -> tuple[int, list[dict[str, Any]]]:
    """Images already done by an interrupted run of the very same feature set; what another left is
    forgotten."""
    progress = part / "progress.json"
    if progress.is_file():
        with suppress(UserError, KeyError, TypeError):  # damaged: nothing is done
            state = read_json(progress)
            if state["key"] == key:
                return int(state["done"]), list(state["rejected"])
        progress.unlink()
    return 0, []


def _remember(
    part: Path, key: str, done: int, rejected: list[dict[str, Any]], arrays: dict[str, np.memmap]
) -> None:
    for array in arrays.values():
        array.flush()
    write_json(part / "progress.json", {"key": key, "done": done, "rejected": rejected})


def _arrays(
    part: Path, count: int, encoder: Encoder, kind: str, dtype: str, fresh: bool
) -> dict[str, np.memmap]:
    """Args: kind: of the grid; dtype: of the pooled vectors."""
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "grid": ((count, encoder.positions, encoder.grid_dim), kind),
        "pooled": ((count, encoder.pooled_dim), dtype),
    }
    if dtype == "int8":
        shapes |= {f"{name}_scale": (shape[:-1], "float32") for name, (shape, _) in shapes.items()}
    return {
        name: _array(part / f"{name}.npy", shape, its, fresh)
        for name, (shape, its) in shapes.items()
    }


def _array(file: Path, shape: tuple[int, ...], kind: str, fresh: bool) -> np.memmap:
    if not fresh:
        return np.lib.format.open_memmap(file, "r+")
    array = np.lib.format.open_memmap(file, "w+", np.dtype(kind), shape)
    if hasattr(
        os, "posix_fallocate"
    ):  # a write into a hole of a map on a full disk is a bus error; this is an OSError
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return array


def _batches(
    encoder: Encoder, images: list[Member], done: int, batch: int, threads: int
) -> Iterator[tuple[int, "Tensor | None", list[int], list[dict[str, Any]]]]:
    """(start, pixels (n, 3, S, S), their rows, rejected images); decoding runs ahead in threads."""
    import torch

    def read(member: Member) -> "Tensor | str":
        try:
            return encoder.transform(read_image(member.read()))
        except ImageError as error:
            return str(error)

    with (
        ThreadPoolExecutor(threads) as pool,
        bar(desc="extract", unit="images", total=len(images), initial=done) as progress,
    ):
        decoded = ahead(pool, read, images[done:], 4 * batch)
        for start in range(done, len(images), batch):
            results = list(islice(decoded, batch))
            rows = range(start, start + len(results))
            good = [row for row, r in zip(rows, results, strict=True) if not isinstance(r, str)]
            pixels = [r for r in results if not isinstance(r, str)]
            bad = [
                {"image_id": images[row].image_id, "reason": r}
                for row, r in zip(rows, results, strict=True)
                if isinstance(r, str)
            ]
            yield start, torch.stack(pixels) if pixels else None, good, bad
            progress.update(len(results))


def _finish(
    part: Path,
    images: list[Member],
    rejected: list[dict[str, Any]],
    about: dict[str, Any],
    arrays: dict[str, np.memmap],
) -> None:
    bad = {row["image_id"] for row in rejected}
    good = np.array([image.image_id not in bad for image in images], bool)
    if not good.any():
        first = rejected[0]["reason"] if rejected else "there is none"
        raise UserError(
            f"no image could be read for these features (first: {first}): check the data "
            "set's images"
        )
    ids = pa.array([image.image_id for image in compress(images, good)], pa.string())
    pq.write_table(pa.table({"image_id": ids, "row": np.flatnonzero(good)}), part / "ids.parquet")
    reasons = pa.schema([("image_id", pa.string()), ("reason", pa.string())])
    pq.write_table(pa.Table.from_pylist(rejected, reasons), part / "rejected.parquet")
    shapes = {name: list(arrays[name].shape) for name in ("grid", "pooled")}
    write_json(part / "manifest.json", {**about, "shapes": shapes, "rejected": len(rejected)})
    (part / "progress.json").unlink()
