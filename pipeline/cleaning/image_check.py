"""Every picture of a dataset looked at once: what is wrong with it, and which pictures are
equal."""

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
    """What one look at an image's file told."""

    problem: str | None
    "the reason for which its rows are set aside; None: it could be decoded"
    digest: str | None
    "of its pixels: equal pictures are equal whatever their file format"


MISSING = Picture("image missing", None)
"of an image that has captions, and no picture in the shards"
AHEAD = 128
"pictures that are looked at before their turn"


def look_at_images(shards: Shards) -> dict[str, Picture]:
    """Decode every picture once, in `workers()` threads; by image_id.

    Raises:
        UserError: a shard is not what the index says.
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
    """image_id and digest (of its pixels): what reads a corpus and its pictures depends on both by
    the corpus alone."""
    rows = [(image, pictures[image].digest) for image in sorted(pictures)]
    return pd.DataFrame(rows, columns=["image_id", "digest"])
