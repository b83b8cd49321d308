"""Splits that are stable when data is added: an image's split depends only on its key and the
seed."""

import hashlib
from collections.abc import Iterable


def keyed_split(images: Iterable[str], val: float, test: float, seed: int) -> dict[str, str]:
    """Split images into about the shares `val` and `test`; the rest is train.

    A hash of its id places each image. No image changes its split when others are added or removed.
    The shares are met on average: with 1,000 images and a share of 0.1, 95 of 100 draws give 81 to
    119 images.
    """
    out = {}
    for image in images:
        drawn = hashlib.sha256(f"{seed} {image}".encode()).digest()
        place = int.from_bytes(drawn[:8]) / 2**64
        out[image] = "test" if place < test else "val" if place < test + val else "train"
    return out
