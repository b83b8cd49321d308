"""Looks at every picture of a dataset once: what is wrong with it, and which pictures are equal."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from pipeline.core.errors import one_line
from pipeline.core.machine import ahead, workers
from pipeline.core.on_disk import OnDisk
from pipeline.data.shards import Member, Shards
from pipeline.images.reading import ImageError, read_image


@dataclass(frozen=True, slots=True)
class Picture:
    """What was seen of an image's file."""

    problem: str | None
    "Reason why its rows are set aside; None if it could be decoded."
    digest: str | None
    """Digest of its pixels: the same for equal pictures, whatever their file format. None if there
    is a problem."""


# For an image that has captions but no picture in the shards.
MISSING = Picture("image missing", None)
# Number of pictures that are looked at ahead of their turn.
AHEAD = 128
# Number of pictures in a row group of images.parquet.
ROWS = 131_072


class Pictures(Mapping[str, Picture]):
    """What was seen of each image, in the order of the ids. It lies in a temporary file."""

    def __init__(self, looks: Iterable[tuple[str, Picture]]) -> None:
        self._kept = OnDisk(2)
        self._kept.put((image, look.problem, look.digest) for image, look in looks)

    def __getitem__(self, image: str) -> Picture:
        found = self._kept.get(image)
        if found is None:
            raise KeyError(image)
        return Picture(*found)

    def __iter__(self) -> Iterator[str]:
        return (image for image, *_ in self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def looks_of(pictures: Mapping[str, Picture], images: "pd.Series[str]") -> list[Picture]:
    """Return what was seen of the image of each row; MISSING if it has no picture."""
    found = {image: pictures.get(image, MISSING) for image in images.unique()}
    return [found[image] for image in images]


def look_at_images(shards: Shards) -> Pictures:
    """Decode every picture once, in `workers()` threads; return what was seen by image_id.

    Raises:
        UserError: a shard does not match the index.
    """
    from tqdm import tqdm

    with ThreadPoolExecutor(workers()) as pool:
        looks = ahead(pool, _look, shards, AHEAD)
        count = len(shards)
        return Pictures(tqdm(looks, "checking images", count, unit=" images", disable=None))


def _look(member: Member) -> tuple[str, Picture]:
    try:
        image = read_image(member.read())
    except ImageError as error:
        return member.image_id, Picture(f"image broken: {one_line(error)}", None)
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return member.image_id, Picture(None, pixels)


def write_picture_table(pictures: Pictures, path: Path) -> None:
    """Write a table of image_id and digest (of the image's pixels), in the order of the ids.

    It is part of the corpus, so a step that reads a corpus and its pictures depends on both through
    the corpus alone.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    some = pd.DataFrame([("", "")], columns=["image_id", "digest"])
    schema = pa.Schema.from_pandas(some, preserve_index=False)
    images = iter(pictures)
    with ParquetWriter(path, schema) as writer:
        while group := list(islice(images, ROWS)):
            digests = [pictures[image].digest for image in group]
            writer.write_table(pa.table([group, digests], schema=schema))
