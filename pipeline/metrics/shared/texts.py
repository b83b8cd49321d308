"""Texts by image as arrays of word numbers.

Example: image 0 has the references "a red dog" and "a dog", and image 1 has "a red cat". Words are
numbered in the order in which they occur: a 0, red 1, dog 2, cat 3.

    Texts.words    0 1 2 0 2 0 1 3    all texts, one after another
    Texts.starts   0     3   5     8  where each text begins
    Texts.firsts   0         2     3  the first text of each image: texts 0 and 1, then text 2

PART images are processed at a time, in arrays as long as their words:

    Part.words     0 1 2 0 2 0 1 3
    Part.text      0 0 0 1 1 2 2 2    the text of each word
    Part.left      3 2 1 2 1 3 2 1    words from it to the end of its text
    Part.image     0     0   1        the image of each text
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
# Number of images processed together. Little more than the words is thus held for all images.
PART = 1024


@dataclass(frozen=True, eq=False)
class Part:
    """The texts of some images; texts and images are numbered from 0."""

    words: Ints
    "(W,) Numbers of the words, text after text."
    text: Ints
    "(W,) The text of each word."
    left: Ints
    "(W,) Number of words from each word to the end of its text, itself included."
    image: Ints
    "(T,) The image of each text."


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts by image."""

    words: NDArray[np.unsignedinteger[Any]]
    "(W,) Numbers of the words, in the smallest type that holds the largest."
    starts: Ints
    "(T + 1,) Where each text begins among the words, and where the last one ends."
    firsts: Ints
    "(N + 1,) The first text of each image, and the number of texts."

    @property
    def lengths(self) -> Ints:
        """(T,) Lengths of the texts in words."""
        return np.diff(self.starts)

    def of(self, images: Ints) -> Ints:
        """Return (T,) the texts of some images, image after image."""
        return _runs(self.firsts[images], self.firsts[images + 1])

    def part(self, images: Ints) -> Part:
        """Return the texts of some images.

        Args:
            images: in any order; an image that occurs twice counts as two.
        """
        texts = self.of(images)
        starts, ends = self.starts[texts], self.starts[texts + 1]
        words = self.words[_runs(starts, ends)].astype(np.int64)
        text = np.repeat(np.arange(len(texts)), ends - starts)
        left = np.cumsum(ends - starts)[text] - np.arange(len(words))
        image = np.repeat(np.arange(len(images)), self.firsts[images + 1] - self.firsts[images])
        return Part(words, text, left, image)

    def parts(self) -> Iterator[tuple[Ints, Part]]:
        count = len(self.firsts) - 1
        for start in range(0, count, PART):
            images = np.arange(start, min(start + PART, count))
            yield images, self.part(images)


def _runs(starts: Ints, ends: Ints) -> Ints:
    """Return start .. end - 1 of each pair, one range after another."""
    lengths = ends - starts
    return np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(lengths.sum())


def number(images: Iterable[Sequence[str]], of_word: Callable[[str], int]) -> Texts:
    """Return texts with their words numbered.

    Args:
        images: the texts of each image.
        of_word: gives the number of a word.
    """
    words, starts, firsts = array("i"), array("q", [0]), array("q", [0])
    for texts in images:
        for text in texts:
            words.extend(map(of_word, text.split()))
            starts.append(len(words))
        firsts.append(len(starts) - 1)
    numbers, places = (
        np.frombuffer(words, np.int32),
        (np.array(each, np.int64) for each in (starts, firsts)),
    )
    return Texts(numbers.astype(np.min_scalar_type(numbers.max(initial=0))), *places)
