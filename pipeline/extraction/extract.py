"""Images -> data/features/<name>/: memory maps (float16, int8 or the encoder's own type), resumable
after any interruption."""

import hashlib
import json
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

from pipeline.core.errors import UserError, one_line
from pipeline.core.machine import ahead
from pipeline.core.progress import bar
from pipeline.data.checked import RESTORE, inside, read_json
from pipeline.data.files import fingerprint, loaded_code, named_files, whole_folder, write_json
from pipeline.encoders.shared.base import Encoder
from pipeline.features.features import Features, parts
from pipeline.features.quantise import grid_dtype, to_int8
from pipeline.images.reading import ImageError, read_image

if TYPE_CHECKING:
    from torch import Tensor


def image_files(captions: Path) -> dict[str, str]:
    """image_id -> file of every image of a dataset's captions.parquet, ordered by image_id. A
    second file is left out.

    pyarrow reads it, for pandas would be a sixth of the stage's start; in parts, for there are five
    rows an image.
    """
    found: dict[str, str] = {}
    try:
        with pq.ParquetFile(captions, buffer_size=2**16, pre_buffer=False) as table:
            for part in table.iter_batches(8192, columns=["image_id", "file"], use_threads=False):
                for image_id, file in zip(
                    *(part[name].to_pylist() for name in ("image_id", "file")), strict=True
                ):
                    if image_id is not None and file is not None:
                        if not isinstance(image_id, str) or not inside(file):
                            raise ValueError(f"image '{image_id}' has no file in images/")
                        found.setdefault(image_id, file)
    except FileNotFoundError:
        raise UserError(f"{captions} is not there: run dvc repro") from None
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        what = f"{captions} is no readable index of images: {one_line(error)}"
        raise UserError(f"{what}: {RESTORE}") from None
    return {image_id: found[image_id] for image_id in sorted(found)}


def extract(
    encoder: Encoder,
    images: dict[str, str],
    root: Path,
    folder: Path,
    about: dict[str, Any],
    device: str,
    threads: int,
    batch: int = 32,
) -> None:
    """Run every image through the encoder once.

    Args:
        images: image_id -> file, relative to `root`.
        about: what names this feature set (encoder, arguments; without them dtype: float16 and
            keep: both), kept in manifest.json.
        batch: images per forward pass; the result does not depend on it.

    Raises:
        UserError: no image could be read, or the encoder is not to be stored in this dtype.
    """
    about = {"dtype": "float16", "keep": "both", **about}
    try:
        kind = grid_dtype(encoder, about["dtype"])
    except UserError as error:
        raise UserError(f"features.{folder.name}: {error}") from None
    made_by = [about, named_files(about.get("args", {})), loaded_code(), device]
    key = fingerprint([made_by, _digest(images, root)])
    encoder = encoder.to(device)
    with whole_folder(folder, keep_partial=True) as part:
        done, rejected = _resume(part, key)
        shapes = {
            "grid": (len(images), encoder.positions, encoder.grid_dim),
            "pooled": (len(images), encoder.pooled_dim),
        }
        arrays = _arrays(part, shapes, kind, about, fresh=done == 0)
        for start, pixels, good, bad in _batches(encoder, images, root, done, batch, threads):
            if pixels is not None:
                features = encoder(pixels.to(device))
                for name, values in _as_kept(features, about).items():
                    _put(arrays[name], good, values)
            rejected += bad
            if start // batch % 16 == 15:
                _remember(part, key, start + batch, rejected, arrays)
        _remember(part, key, len(images), rejected, arrays)
        crops = getattr(encoder, "crops", False)
        _finish(part, images, rejected, {**about, "crops": crops, "shapes": shapes})


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


def _digest(images: dict[str, str], root: Path) -> str:
    """Of ids, files, and their sizes and times of change, so that no resumed run mixes old pictures
    with new ones."""
    found = hashlib.sha256()
    for image in images.items():
        found.update(json.dumps([*image, *_stamp(root / image[1])]).encode())
    return found.hexdigest()


def _stamp(path: Path) -> list[int]:
    try:
        about = path.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


def _resume(part: Path, key: str) -> tuple[int, list[dict[str, Any]]]:
    """Images already done by an interrupted run of the very same feature set; what another left is
    removed, for it may be files that this one does not write."""
    progress = part / "progress.json"
    if progress.is_file():
        with suppress(UserError, KeyError, TypeError):  # damaged: nothing is done
            state = read_json(progress)
            if state["key"] == key:
                return int(state["done"]), list(state["rejected"])
    for file in part.iterdir():
        file.unlink()
    return 0, []


def _remember(
    part: Path, key: str, done: int, rejected: list[dict[str, Any]], arrays: dict[str, np.memmap]
) -> None:
    for array in arrays.values():
        array.flush()
    write_json(part / "progress.json", {"key": key, "done": done, "rejected": rejected})


def _arrays(
    part: Path, shapes: dict[str, tuple[int, ...]], kind: str, about: dict[str, Any], fresh: bool
) -> dict[str, np.memmap]:
    """Args: kind: the dtype of the grid; that of the pooled vectors is told by `about`."""
    dtypes = {"grid": kind, "pooled": about["dtype"]}
    files: dict[str, tuple[tuple[int, ...], str]]
    files = {name: (shapes[name], dtypes[name]) for name in parts(about["keep"])}
    if about["dtype"] == "int8":
        files |= {f"{name}_scale": (shape[:-1], "float32") for name, (shape, _) in files.items()}
    return {
        name: _array(part / f"{name}.npy", shape, its, fresh)
        for name, (shape, its) in files.items()
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
    encoder: Encoder, images: dict[str, str], root: Path, done: int, batch: int, threads: int
) -> Iterator[tuple[int, "Tensor | None", list[int], list[dict[str, Any]]]]:
    """(start, pixels (n, 3, S, S), their rows, rejected images); decoding runs ahead in threads."""
    import torch

    ids, files = list(images), list(images.values())

    def read(row: int) -> "Tensor | str":
        try:
            return encoder.transform(read_image(root / files[row]))
        except ImageError as error:
            return str(error)

    with (
        ThreadPoolExecutor(threads) as pool,
        bar(desc="extract", unit="images", total=len(images), initial=done) as progress,
    ):
        decoded = ahead(pool, read, range(done, len(images)), 4 * batch)
        for start in range(done, len(images), batch):
            results = list(islice(decoded, batch))
            rows = range(start, start + len(results))
            good = [row for row, r in zip(rows, results, strict=True) if not isinstance(r, str)]
            pixels = [r for r in results if not isinstance(r, str)]
            bad = [
                {"image_id": ids[row], "reason": r}
                for row, r in zip(rows, results, strict=True)
                if isinstance(r, str)
            ]
            yield start, torch.stack(pixels) if pixels else None, good, bad
            progress.update(len(results))


def _finish(
    part: Path,
    images: dict[str, str],
    rejected: list[dict[str, Any]],
    about: dict[str, Any],
) -> None:
    bad = {row["image_id"] for row in rejected}
    good = np.array([image_id not in bad for image_id in images], bool)
    if not good.any():
        first = rejected[0]["reason"] if rejected else "there is none"
        raise UserError(
            f"no image could be read for these features (first: {first}): check the data "
            "set's images"
        )
    ids = pa.array(compress(images, good), pa.string())
    pq.write_table(pa.table({"image_id": ids, "row": np.flatnonzero(good)}), part / "ids.parquet")
    reasons = pa.schema([("image_id", pa.string()), ("reason", pa.string())])
    pq.write_table(pa.Table.from_pylist(rejected, reasons), part / "rejected.parquet")
    write_json(part / "manifest.json", {**about, "rejected": len(rejected)})
    (part / "progress.json").unlink()
