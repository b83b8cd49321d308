"""Extract features of images into data/features/<name>/, one part for each shard of pictures.
Values are float16, int8 or the encoder's own type. Extraction resumes after any interruption: the
shards that are done stay."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
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
from pipeline.extraction.making import Maker
from pipeline.features.quantise import grid_dtype

# A shard whose arrays are on disk: its number, its stamp, and the image_id and reason of each
# rejected image.
Made: TypeAlias = tuple[int, list[int], list[dict[str, Any]]]
# Prefix of folders in the partial output, in which actors of a cluster write.
SCRATCH = ".actors-"
# What progress.json records of a finished shard: stamp and rejected.
Shard: TypeAlias = dict[str, Any]


@dataclass
class Job:
    """The pictures to extract features from, and how."""

    encoder: Encoder
    shards: Shards
    folder: Path
    "The folder of the partial output."
    about: dict[str, Any]
    device: str
    threads: int
    batch: int
    stamps: list[list[int]]
    "The stamp of each shard, see `stamp`."


def extract(
    encoder: Encoder,
    shards: Shards,
    folder: Path,
    about: dict[str, Any],
    device: str,
    threads: int,
    batch: int = 32,
    make: "Callable[[Job, list[int]], Generator[Made, None, None]] | None" = None,
) -> None:
    """Run every image through the encoder once.

    Args:
        shards: the images.
        about: identifies this feature set (encoder, arguments) and is kept in manifest.json.
            Defaults are dtype: float16 and keep: both.
        batch: images per forward pass, all from one shard. The result does not depend on it.
        make: writes the arrays of the shards with the given numbers, in any order. By default, this
            process writes them.

    Raises:
        UserError: no image could be read, a shard differs from the index, or the encoder's grid
            cannot be stored in this dtype.
    """
    about = {"dtype": "float16", "keep": "both", **about}
    try:
        grid_dtype(encoder, about["dtype"])
    except UserError as error:
        raise UserError(f"features.{folder.name}: {error}") from None
    made_by = [about, named_files(about.get("args", {})), loaded_code(), device]
    key = fingerprint([made_by, digest(shards.index)])
    counts, stamps = _sizes(shards)
    with whole_folder(folder, keep_partial=True) as part:
        done = _resume(part, key, stamps)
        job = Job(encoder, shards, part, about, device, threads, batch, stamps)
        todo = [number for number in range(len(stamps)) if number not in done]
        before = sum(counts[number] for number in done)
        with (
            closing((make or _here)(job, todo)) as made,
            bar(desc="extract", unit="images", total=len(shards), initial=before) as progress,
        ):
            for number, its_stamp, rejected in made:
                done[number] = {"stamp": its_stamp, "rejected": rejected}
                _remember(part, key, done)
                progress.update(counts[number])
        shapes = {
            "grid": (len(shards), encoder.positions, encoder.grid_dim),
            "pooled": (len(shards), encoder.pooled_dim),
        }
        seen = {"crops": getattr(encoder, "crops", False)}
        if getattr(encoder, "pads", False):  # a key for all would change every other manifest
            seen["pads"] = True
        rejected = [row for number in sorted(done) for row in done[number]["rejected"]]
        _finish(part, shards, rejected, {**about, **seen, "shapes": shapes})


def _here(job: Job, todo: list[int]) -> Generator[Made, None, None]:
    """Make the shards in this process. Decoding runs ahead into the next shards."""
    maker = Maker(job.encoder, job.about, job.device, job.threads, job.batch)
    coming = chain.from_iterable(members for _, members in _members(job.shards, todo))
    with maker.decoding(coming) as decoded:
        for number, members in _members(job.shards, todo):
            rejected = maker.make(job.folder, number, members, decoded)
            yield number, job.stamps[number], rejected


def _members(shards: Shards, todo: list[int]) -> Iterator[tuple[int, list[Member]]]:
    """Yield the number and the pictures of each of these shards."""
    wanted = set(todo)
    for number, members in enumerate(shards.by_shard()):
        if number in wanted:
            yield number, members


def _sizes(shards: Shards) -> tuple[list[int], list[list[int]]]:
    """Return the number of pictures in each shard, and the stamp of each shard."""
    found = [(len(members), stamp(members[0].shard)) for members in shards.by_shard()]
    return [count for count, _ in found], [its for _, its in found]


def stamp(shard: Path) -> list[int]:
    """Return a shard's size in bytes and its modification time in nanoseconds; [] if it does not
    exist. With the stamps, no resumed run mixes old pictures with new ones."""
    try:
        about = shard.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


def _resume(part: Path, key: str, stamps: list[list[int]]) -> dict[int, Shard]:
    """Return the shards that an interrupted run of the same feature set has finished.

    Shards from the first one that has changed since are left out. Files of any other run are
    removed.
    """
    for left in part.glob(f"{SCRATCH}*"):
        remove(left)
    with suppress(UserError, KeyError, TypeError, ValueError, IndexError):
        # If the file is missing or damaged, no shard counts as finished.
        state = read_json(part / "progress.json")
        if state["key"] == key:
            done: dict[int, Shard] = {}
            for shard in state["shards"]:
                number, its = int(shard["shard"]), list(shard["stamp"])
                if its != stamps[number]:
                    break
                done[number] = {"stamp": its, "rejected": list(shard["rejected"])}
            return done
    for file in part.iterdir():
        remove(file)
    return {}


def _remember(part: Path, key: str, done: dict[int, Shard]) -> None:
    shards = [{"shard": number, **done[number]} for number in sorted(done)]
    write_json(part / "progress.json", {"key": key, "shards": shards})


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
