"""What the rows of a data set say about its images: captions, splits and pictures, joined by
image_id. A temporary file holds it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.core.on_disk import OnDisk
from pipeline.sources.shared import base
from pipeline.sources.shared.keyed import EqualPictures


class About(NamedTuple):
    """What has been read about an image so far."""

    number: int
    "Number of images that were read before it."
    captions: int
    "Number of its captions."
    split: str
    digest: bytes | None
    "MD5 of its picture; None if it has none."
    several: bool
    "Whether it is in more than one split."


class Found:
    """What has been read about the images so far. Memory grows only with the rows that have no
    picture."""

    def __init__(self) -> None:
        self.images, self._captions = OnDisk(len(About._fields)), OnDisk(2)
        self.equal = EqualPictures()
        self.without: list[str] = []
        "Rows whose picture cannot be read."
        self.rows = self.pictures = self._images = 0

    def about(self, image: str) -> About | None:
        found = self.images.get(image)
        return About(*found) if found else None

    def new(self, split: str) -> About:
        """Return what is known of an image that is read for the first time."""
        self._images += 1
        return About(self._images - 1, 0, split, None, several=False)

    def put(self, image: str, about: About, texts: list[str]) -> None:
        """Replace what is known of an image, and add captions to it."""
        for n, text in enumerate(texts, about.captions):
            said = text.encode("utf-8", "surrogatepass")  # SQLite takes no half characters
            self._captions.put([(_place(about.number, n), image, said)])
        self.images.put([(image, *about._replace(captions=about.captions + len(texts)))])

    def captions(self) -> Iterator[base.Row]:
        """Yield all captions: image by image, as they were first read."""
        for place, image, said in self._captions:
            text = said.decode("utf-8", "surrogatepass")
            yield base.make_row(image, int(place.partition(" ")[2]), text)

    def split_of(self, images: Iterable[str]) -> dict[str, str]:
        """Return image_id -> split; an image without a split is left out."""
        known = {image: about.split for image in images if (about := self.about(image))}
        return {image: split for image, split in known.items() if split}

    def seen(self, images: Iterable[str]) -> list[str]:
        """Return the images that have a picture."""
        return [image for image in images if (about := self.about(image)) and about.digest]

    def has_splits(self) -> bool:
        """Return whether the images are in more than one split."""
        return len({About(*about).split for _, *about in self.images} - {""}) > 1

    def several(self) -> list[str]:
        """Return the images that are in more than one split, by their ids."""
        return [image for image, *about in self.images if About(*about).several]


def _place(image: int, caption: int) -> str:
    """Return a key whose order is that of both numbers."""
    return f"{image:012} {caption:06}"
