"""N-grams of texts, counted as numbers in arrays: what BLEU and CIDEr share.

Words are numbered, and an n-gram is its first n - 1 words, numbered as well, and its last: one
integer of 64 bits, without collisions whatever the vocabulary. A million n-grams are then some 10
MB, which as tuples in a Counter are 250. Images are taken PART at a time, so that little but the
words is ever held of all of them.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDERS = range(1, 5)
PART = 1024
"images"
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """The texts of some images; texts and images are numbered from 0."""

    words: Ints
    "(W,) numbers of the words, text after text"
    text: Ints
    "(W,) the text of each"
    left: Ints
    "(W,) words from each to the end of its text, itself included"
    image: Ints
    "(T,) the image of each text"


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts by image."""

    words: NDArray[np.unsignedinteger[Any]]
    "(W,) in as few bytes as hold the largest"
    starts: Ints
    "(T + 1,) where each text begins among the words, and the end of the last"
    firsts: Ints
    "(N + 1,) the first text of each image, and the number of texts"

    @property
    def lengths(self) -> Ints:
        """(T,) in words."""
        return np.diff(self.starts)

    def of(self, images: Ints) -> Ints:
        """(T,) the texts of some images, one image's after another's."""
        return _runs(self.firsts[images], self.firsts[images + 1])

    def part(self, images: Ints) -> Part:
        """Args: images: in any order; one that comes twice is two images."""
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
    """start .. end - 1 of each, one after another."""
    lengths = ends - starts
    return np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(lengths.sum())


def number(images: Iterable[Sequence[str]], of_word: Callable[[str], int]) -> Texts:
    """Args: images: the texts of each."""
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


@dataclass(frozen=True, eq=False)
class Frequent:
    """The n-grams of one order that more than one image has, sorted; all others have one image or
    none."""

    keys: Ints
    "rank of the first n - 1 words x words of the vocabulary + the last"
    images: NDArray[np.int32]
    "how many have it"


def _places(known: Ints, keys: Ints) -> Ints:
    """Of keys among those known, which are sorted; -1 for what is not there."""
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
    "by order"

    def number(self, candidates: Iterable[str]) -> tuple[Texts, int]:
        """Each caption as an image of its own, and how many words are numbered then: those that no
        reference has are, too."""
        more: defaultdict[str, int] = defaultdict()
        more.default_factory = lambda: len(self.vocabulary) + len(more)
        known = self.vocabulary

        def of_word(word: str) -> int:
            found = known.get(word)
            return more[word] if found is None else found

        return number(([text] for text in candidates), of_word), len(known) + len(more)

    def rank(self, order: int, before: Ints, last: Ints) -> Ints:
        """Of n-grams by the ranks of their first words and by their last word, -1 for those that
        one image has, or none.

        What several images have begins with what they have as well.
        """
        size = len(self.vocabulary)
        keys = np.where((before >= 0) & (last < size), before * size + last, -1)
        return _places(self.frequent[order - 1].keys, keys)

    def images(self, order: int, ranks: Ints) -> Ints:
        """How many images have the n-grams: 1 also for those that none has, as CIDEr counts."""
        found = self.frequent[order - 1].images
        return (
            np.where(ranks >= 0, found[ranks], 1) if len(found) else np.ones(len(ranks), np.int64)
        )


def count(images: Iterable[Sequence[str]]) -> Counted:
    """Args: images: the references of each.

    Raises:
        ValueError: an image has none.
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
    """With those of the orders before."""
    size, texts = max(1, len(counted.vocabulary)), counted.texts
    span = size * (len(counted.frequent[-1].keys) if counted.frequent else 1)
    keys, filled = np.empty(len(texts.words), np.int64), 0
    for _, part in texts.parts():
        at, before = np.arange(len(part.words)), np.zeros(len(part.words), np.int64)
        for n in range(1, order):
            at, before = _longer(part, n, at, before)
            before = counted.rank(n, before, part.words[at + n - 1])
            at, before = at[before >= 0], before[before >= 0]
        at, before = _longer(part, order, at, before)
        once = (
            np.unique(part.image[part.text[at]] * span + before * size + part.words[at + order - 1])
            % span
        )
        keys[filled : filled + len(once)] = once
        filled += len(once)
    keys = keys[:filled]
    keys.sort()
    several = np.unique(keys[1:][keys[1:] == keys[:-1]])
    images = np.searchsorted(keys, several, "right") - np.searchsorted(keys, several)
    return Frequent(several, images.astype(np.int32))


def _longer(part: Part, order: int, at: Ints, *by_place: Ints) -> tuple[Ints, ...]:
    """Those places at which an n-gram of this order begins, and what is known of them."""
    fits = part.left[at] >= order
    return tuple(values[fits] for values in (at, *by_place))


@dataclass(frozen=True, eq=False)
class Grams:
    """The different n-grams of each text of a part, of one order, as they come: float sums depend
    on the order."""

    order: int
    text: Ints
    "(G,)"
    counts: Ints
    "(G,) how often the text has it"
    images: Ints
    "(G,) how many images' references have it, at least 1"
    keys: Ints
    """(G,) sorted: (number of the text or of its first n - 1 words) x words that are numbered + the
    last word"""
    place: Ints
    "(G,) of each key among the n-grams as they come"


def grams(part: Part, counted: Counted, size: int) -> Iterator[Grams]:
    """Order by order. Args: size: words that are numbered."""
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
    """What the references of a part's images have of the captions' n-grams, a row per reference
    that has one."""

    gram: Ints
    "(M,) place among the captions' Grams, whose text is the image"
    reference: Ints
    "(M,) its number in the part"
    counts: Ints
    "(M,) how often the reference has it"


def matches(
    said: Part, references: Part, counted: Counted, size: int
) -> Iterator[tuple[Grams, Matches]]:
    """Order by order, of a part of captions and of the references of the same images."""
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
