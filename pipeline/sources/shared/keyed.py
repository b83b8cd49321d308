"""Splits that stay when data is added: an image's split depends on its key and the seed alone."""

import hashlib
from collections.abc import Iterable


def keyed_split(images: Iterable[str], val: float, test: float, seed: int) -> dict[str, str]:
    """About the shares `val` and `test` of the images, the rest is train.

    Each image is placed by a hash of its id, so that no image changes its split when others are
    added or taken away. Shares are met on average: of 1,000 images and a share of 0.1, 81 to 119
    in 95 of 100 draws.
    """
    out = {}
    for image in images:
        drawn = hashlib.sha256(f"{seed} {image}".encode()).digest()
        place = int.from_bytes(drawn[:8]) / 2**64
        out[image] = "test" if place < test else "val" if place < test + val else "train"
    return out
