"""Words to ids and back. Every kind is one tokenizer.json of the `tokenizers` library."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"


@dataclass(frozen=True)
class Special:
    """Ids with a meaning of their own. `pad`, `start` and `unknown` are never generated."""

    pad: int
    start: int
    end: int
    unknown: int


class Tokenizer:
    """Encodes a caption as <start> words <end>; the end token may have another name, such as a language model's own."""

    def __init__(self, inner: Any):
        self.inner = inner
        pad, unknown = (inner.token_to_id(token) for token in (PAD, UNKNOWN))
        ends = inner.encode("").ids
        if None in (pad, unknown) or len(ends) != 2:
            raise UserError(f"the tokenizer lacks {PAD} or {UNKNOWN}, or puts captions between no start and end tokens")
        self.special = Special(pad, ends[0], ends[1], unknown)

    def __len__(self) -> int:
        return int(self.inner.get_vocab_size())

    def words(self) -> dict[str, int]:
        """Every token and its id, the special ones too."""
        return dict(self.inner.get_vocab(with_added_tokens=True))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.inner.encode_batch(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(list(ids), skip_special_tokens=True))

    def save(self, path: Path) -> None:
        self.inner.save(str(path))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        from tokenizers import Tokenizer as Inner

        return cls(Inner.from_file(str(path)))


def word_tokenizer(texts: Iterable[str], min_count: int) -> Tokenizer:
    """One id per word seen at least `min_count` times in `texts`, the commonest first, ties in alphabetical order.

    Raises:
        UserError: no word is that frequent.
    """
    from tokenizers import AddedToken, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Inner

    counts = Counter(word for text in texts for word in text.split())
    words = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
    if not words:
        raise UserError(f"no word is seen {min_count} times in the captions: lower train.min_count")
    specials = [PAD, START, END, UNKNOWN]
    vocabulary = {word: n for n, word in enumerate([*specials, *(w for w in words if w not in specials)])}
    inner = Inner(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.add_special_tokens([AddedToken(token, special=True) for token in specials])
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    return Tokenizer(inner)
