"""Looks at every picture of a dataset once: what is wrong with it, and which pictures are equal."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd

from pipeline.core.errors import one_line
from pipeline.core.machine import ahead, workers
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


def look_at_images(shards: Shards) -> dict[str, Picture]:
    """Decode every picture once, in `workers()` threads; return what was seen by image_id.

    Raises:
        UserError: a shard does not match the index.
    """
    from tqdm import tqdm

    with ThreadPoolExecutor(workers()) as pool:
        looks = ahead(pool, _look, shards, AHEAD)
        count = len(shards)
        return dict(tqdm(looks, "checking images", count, unit=" images", disable=None))


def _look(member: Member) -> tuple[str, Picture]:
    try:
        image = read_image(member.read())
    except ImageError as error:
        return member.image_id, Picture(f"image broken: {one_line(error)}", None)
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return member.image_id, Picture(None, pixels)


def picture_table(pictures: dict[str, Picture]) -> pd.DataFrame:
    """Return a table of image_id and digest (of the image's pixels).

    It is part of the corpus, so a step that reads a corpus and its pictures depends on both through
    the corpus alone.
    """
    rows = [(image, pictures[image].digest) for image in sorted(pictures)]
    return pd.DataFrame(rows, columns=["image_id", "digest"])
