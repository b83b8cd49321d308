"""N-grams of texts, counted as numbers in arrays: what BLEU and CIDEr share.

An n-gram is one integer of 64 bits: (number of its first n - 1 words) x (size of the vocabulary) +
(its last word). Each order is numbered from the one before, so no two n-grams collide, whatever the
vocabulary. A million n-grams take some 10 MB; as tuples in a Counter they take 250 MB.

The examples use the references of texts.py: "a red dog" and "a dog" of image 0, "a red cat" of
image 1, with a 0, red 1, dog 2, cat 3.

`count` finds the n-grams that several images have. Every other n-gram occurs in one image or none,
and CIDEr needs no more than that. With 4 words in the vocabulary, their keys are:

    order 1   a, red     keys 0 1   images 2 2
    order 2   a red      keys 1     images 2     rank of "a" among order 1, 0, x 4 + red
    order 3   none: "a red dog" and "a red cat" each occur in one image

`grams` counts the n-grams of captions: "a red red dog" for image 0, "a bird" for image 1. No
reference contains bird, so it gets number 4, and 5 words are numbered here. Keys of order 1 begin
with the text. Keys of order 2 begin with the place of the first word among the keys of order 1:

    order 1           a   red   dog   a    bird
      keys            0   1     2     5    9      text x 5 + word
      counts          1   2     1     1    1
      images          2   2     1     2    1
    order 2           a red   red red   red dog   a bird
      keys            1       6         7         19     place of the first word x 5 + the second
      counts          1       1         1         1

`matches` looks up the references' n-grams among those of their image's caption. The keys are the
same, with the image in place of the text. Each row is an n-gram that a reference shares with the
caption:

    order 1           a   a   red   dog   dog   a
      gram            0   0   1     2     2     3     among the caption's
      reference       0   1   0     0     1     2
      counts          1   1   1     1     1     1
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.shared.texts import Ints, Part, Texts, number

ORDERS = range(1, 5)


@dataclass(frozen=True, eq=False)
class Frequent:
    """The n-grams of one order that more than one image has, sorted. All others occur in one image
    or none."""

    keys: Ints
    "Rank of the first n - 1 words x size of the vocabulary + the last word."
    images: NDArray[np.int32]
    "Number of images that have each n-gram."


def _places(known: Ints, keys: Ints) -> Ints:
    """Return the places of keys among the known keys, which are sorted; -1 for a key that is not
    known."""
    if not len(known):
        return np.full(len(keys), -1)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, places, -1)


@dataclass(frozen=True, eq=False)
class Counted:
    """The references of some images."""

    texts: Texts
    vocabulary: dict[str, int]
    frequent: list[Frequent]
    "Frequent n-grams by order."

    def number(self, candidates: Iterable[str]) -> tuple[Texts, int]:
        """Return the captions, each as an image of its own, and how many words are then numbered.

        Words that no reference contains are numbered too.
        """
        more: defaultdict[str, int] = defaultdict()
        more.default_factory = lambda: len(self.vocabulary) + len(more)
        known = self.vocabulary

        def of_word(word: str) -> int:
            found = known.get(word)
            return more[word] if found is None else found

        return number(([text] for text in candidates), of_word), len(known) + len(more)

    def rank(self, order: int, before: Ints, last: Ints) -> Ints:
        """Return the ranks of n-grams by the ranks of their first words and by their last word.

        The rank is -1 for an n-gram that one image has, or none. An n-gram that several images have
        begins with one that they also have.
        """
        size = len(self.vocabulary)
        keys = np.where((before >= 0) & (last < size), before * size + last, -1)
        return _places(self.frequent[order - 1].keys, keys)

    def images(self, order: int, ranks: Ints) -> Ints:
        """Return how many images have each n-gram; 1 also for one that no image has, as CIDEr
        counts."""
        found = self.frequent[order - 1].images
        return (
            np.where(ranks >= 0, found[ranks], 1) if len(found) else np.ones(len(ranks), np.int64)
        )


def count(images: Iterable[Sequence[str]]) -> Counted:
    """Return the references of all images, and the n-grams that several images have.

    Args:
        images: the references of each image.

    Raises:
        ValueError: an image has no references.
    """
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__
    texts = number(images, vocabulary.__getitem__)
    if not np.diff(texts.firsts).all():
        raise ValueError("an image without references cannot be scored")
    counted = Counted(texts, vocabulary, [])
    for order in ORDERS:
        counted.frequent.append(_frequent(counted, order))
    vocabulary.default_factory = None
    return counted


def _frequent(counted: Counted, order: int) -> Frequent:
    """Return the frequent n-grams of one order, given those of the orders before."""
    texts = counted.texts
    keys, filled = np.empty(len(texts.words), np.int64), 0
    for _, part in texts.parts():
        once = _keys_by_image(counted, part, order)
        keys[filled : filled + len(once)] = once
        filled += len(once)
    keys = keys[:filled]  # each key occurs once per image that has it
    keys.sort()
    several = np.unique(keys[1:][keys[1:] == keys[:-1]])
    images = np.searchsorted(keys, several, "right") - np.searchsorted(keys, several)
    return Frequent(several, images.astype(np.int32))


def _keys_by_image(counted: Counted, part: Part, order: int) -> Ints:
    """Return the keys of the different n-grams of each image of a part, image after image.

    Only n-grams whose first n - 1 words occur in several images are returned.
    """
    at, before = np.arange(len(part.words)), np.zeros(len(part.words), np.int64)
    for n in range(1, order):
        at, before = _longer(part, n, at, before)
        before = counted.rank(n, before, part.words[at + n - 1])
        at, before = at[before >= 0], before[before >= 0]
    at, before = _longer(part, order, at, before)
    size = max(1, len(counted.vocabulary))
    span = size * (len(counted.frequent[-1].keys) if counted.frequent else 1)  # above every key
    keys = before * size + part.words[at + order - 1]
    return np.unique(part.image[part.text[at]] * span + keys) % span


def _longer(part: Part, order: int, at: Ints, *by_place: Ints) -> tuple[Ints, ...]:
    """Return the words among `at` (A,) with which an n-gram of this order begins, and their values
    (A,)."""
    fits = part.left[at] >= order
    return tuple(values[fits] for values in (at, *by_place))


@dataclass(frozen=True, eq=False)
class Grams:
    """The different n-grams of each text of a part, of one order, in the order in which they occur.

    Float sums depend on this order.
    """

    order: int
    text: Ints
    "(G,) The text of each n-gram."
    counts: Ints
    "(G,) How often the text has it."
    images: Ints
    "(G,) Number of images whose references have it, at least 1."
    keys: Ints
    """(G,) Sorted keys: (number of the text, or of its first n - 1 words) x number of numbered
    words + the last word."""
    place: Ints
    "(G,) Place of each key among the n-grams in the order in which they occur."


def grams(part: Part, counted: Counted, size: int) -> Iterator[Grams]:
    """Yield the n-grams order by order, each from the one before.

    Args:
        size: number of words that are numbered.
    """
    at, before, ranks = np.arange(len(part.words)), part.text, np.zeros(len(part.words), np.int64)
    for order in ORDERS:
        at, before, ranks = _longer(part, order, at, before, ranks)
        last = part.words[at + order - 1]
        ranks = counted.rank(order, ranks, last)
        keys, first, before, counts = np.unique(before * size + last, True, True, True)
        comes = np.argsort(first)
        place = np.empty_like(comes)
        place[comes] = np.arange(len(comes))
        first = first[comes]
        yield Grams(
            order,
            part.text[at[first]],
            counts[comes],
            counted.images(order, ranks[first]),
            keys,
            place,
        )


@dataclass(frozen=True, eq=False)
class Matches:
    """The n-grams that the references of a part's images share with the captions, one row per
    reference and n-gram."""

    gram: Ints
    "(M,) Place among the captions' Grams, whose text is the image."
    reference: Ints
    "(M,) Number of the reference in the part."
    counts: Ints
    "(M,) How often the reference has the n-gram."


def matches(
    said: Part, references: Part, counted: Counted, size: int
) -> Iterator[tuple[Grams, Matches]]:
    """Yield n-grams and matches order by order, for a part of captions and the references of the
    same images."""
    texts = len(references.image)
    at, before = np.arange(len(references.words)), references.image[references.text]
    for found in grams(said, counted, size):
        at, before = _longer(references, found.order, at, before)
        before = _places(found.keys, before * size + references.words[at + found.order - 1])
        at, before = at[before >= 0], before[before >= 0]
        pairs, counts = np.unique(
            found.place[before] * texts + references.text[at], return_counts=True
        )
        yield found, Matches(pairs // texts, pairs % texts, counts)
