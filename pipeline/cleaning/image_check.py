"""Every image file of a dataset looked at once: what is wrong with it, and which pictures are
equal."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.core.errors import one_line
from pipeline.core.machine import workers
from pipeline.images.reading import ImageError, read_image


@dataclass(frozen=True, slots=True)
class Picture:
    """What one look at an image file told."""

    problem: str | None
    "the reason for which its rows are set aside; None: it could be decoded"
    digest: str | None
    "of its pixels: equal pictures are equal whatever their file format"


def look_at_images(files: Iterable[str], folder: Path) -> dict[str, Picture]:
    """Decode every image once, in `workers()` threads.

    Args:
        files: paths relative to `folder`.
    """
    from tqdm import tqdm

    names = list(dict.fromkeys(files))
    with ThreadPoolExecutor(workers()) as pool:
        looks = pool.map(lambda name: _look(folder / name), names)
        return dict(
            zip(
                names,
                tqdm(looks, "checking images", len(names), unit=" images", disable=None),
                strict=True,
            )
        )


def _look(path: Path) -> Picture:
    if not path.is_file():
        return Picture("image missing", None)
    try:
        image = read_image(path)
    except ImageError as error:
        return Picture(f"image broken: {one_line(error)}", None)
    return Picture(None, hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest())


def picture_table(pictures: dict[str, Picture]) -> pd.DataFrame:
    """file and digest (of its pixels): what reads a corpus and its pictures depends on both by the
    corpus alone."""
    return pd.DataFrame(
        [(file, pictures[file].digest) for file in sorted(pictures)], columns=["file", "digest"]
    )
