"""Words to ids and back. Every kind of tokenizer is one tokenizer.json of the `tokenizers`
library."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, brief, check_access

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
# Number of captions that are encoded at once.
MANY = 4096


@dataclass(frozen=True)
class Special:
    """Ids with a special meaning. `pad`, `start` and `unknown` are never generated."""

    pad: int
    start: int
    end: int
    unknown: int


class Tokenizer:
    """Encodes a caption as <start> words <end>.

    The end token may have another name, such as that of a language model.
    """

    def __init__(self, inner: Any):
        self.inner = inner
        inner.encode_special_tokens = (
            True  # "<start>" inside a caption is text; the setting is not kept in tokenizer.json
        )
        pad, unknown = (inner.token_to_id(token) for token in (PAD, UNKNOWN))
        ends = inner.encode("").ids
        if None in (pad, unknown) or len(ends) != 2:
            raise UserError(
                f"the tokenizer lacks {PAD} or {UNKNOWN}, or puts captions between no "
                "start and end tokens"
            )
        self.special = Special(pad, ends[0], ends[1], unknown)

    def __len__(self) -> int:
        return int(self.inner.get_vocab_size())

    def words(self) -> dict[str, int]:
        """Return every token and its id, including the special ones."""
        return dict(self.inner.get_vocab(with_added_tokens=True))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.inner.encode_batch(list(texts))]

    def encode_each(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Yield the ids of each text.

        Only a few texts are encoded at a time, because an encoded caption takes kilobytes at first.
        """
        rest = iter(texts)
        while some := list(islice(rest, MANY)):
            yield from self.encode(some)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words with single spaces between them.

        A language model may write line breaks, or a space at the start.
        """
        return " ".join(str(self.inner.decode(list(ids), skip_special_tokens=True)).split())

    def parted(self, ids: Sequence[int]) -> str:
        """Decode with a space between any two words, even where `gluing` removes spaces."""
        from tokenizers.models import WordLevel

        if not isinstance(self.inner.model, WordLevel):
            return self.decode(ids)
        special = {*vars(self.special).values()}
        return " ".join(self.inner.id_to_token(i) for i in ids if i not in special)

    def gluing(self, spaces: str) -> "Tokenizer":
        """Return another tokenizer whose decoded texts lack some spaces. Its tokenizer.json holds
        this rule.

        Args:
            spaces: regular expression (Oniguruma) that matches these spaces.
        """
        from tokenizers import Regex, decoders

        inner = type(self.inner).from_str(self.inner.to_str())
        # WordPiece with a prefix that no word can have: it puts spaces between words.
        words = inner.decoder or decoders.WordPiece(prefix=" ", cleanup=False)
        rest = decoders.Replace(Regex(spaces), "")
        inner.decoder = decoders.Sequence([words, decoders.Fuse(), rest])
        return Tokenizer(inner)

    def save(self, path: Path) -> None:
        self.inner.save(str(path))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Return the tokenizer of a tokenizer.json.

        Raises:
            UserError: the file is missing, or is not a tokenizer of this project.
        """
        from tokenizers import Tokenizer as Inner

        check_access(path)
        try:
            return cls(Inner.from_file(str(path)))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except Exception as error:  # the library raises nothing more precise
            raise UserError(f"{path} is not a model's tokenizer: {brief(error)}") from None


def word_tokenizer(texts: Iterable[str], min_count: int) -> Tokenizer:
    """Return a tokenizer with one id per word seen at least `min_count` times in `texts`.

    The most frequent words come first, and ties are in alphabetical order.

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
    vocabulary = {
        word: n for n, word in enumerate([*specials, *(w for w in words if w not in specials)])
    }
    inner = Inner(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.add_special_tokens([AddedToken(token, special=True) for token in specials])
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return Tokenizer(inner)


def language_model_tokenizer(inner: Any, end: str, cut_at: str = "") -> Tokenizer:
    """Return a language model's own tokenizer, with <start> before and its token `end` after each
    caption.

    <pad>, <start> and <unk> get ids after the model's last one, so logits over the model's
    vocabulary do not reach them. If the model has tokens of these names itself, or spare rows,
    decoding rules them out.

    Args:
        inner: tokenizer of the `tokenizers` library; it is not changed.
        cut_at: decoded text ends with the first such sign, if there is one.
    """
    from tokenizers import AddedToken, Regex, decoders, processors

    inner = type(inner).from_str(inner.to_str())
    inner.no_truncation()
    inner.no_padding()
    inner.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (end, PAD, START, UNKNOWN)]
    )
    ids = [(token, inner.token_to_id(token)) for token in (START, end)]
    inner.post_processor = processors.TemplateProcessing(
        single=[START, "$A", end], special_tokens=ids
    )
    if cut_at:
        rest = Regex(f"(?m:{re.escape(cut_at)}.*)$")
        inner.decoder = decoders.Sequence(
            [inner.decoder, decoders.Fuse(), decoders.Replace(rest, cut_at)]
        )
    return Tokenizer(inner)


def byte_level_bpe(texts: Iterable[str], entries: int, end: str) -> Any:
    """Return a byte-level BPE like GPT-2's, trained on `texts`.

    It holds `end` and the 256 bytes, then merges until there are `entries`.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=entries, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return inner
