"""Pretrained word vectors in GloVe's text format, read as a stream.

Each line is `word v1 v2 ... vE`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.decoders.shared.tokenizers import Tokenizer


def fill_embedding(embedding: nn.Embedding, tokenizer: Tokenizer, path: str, tune: bool) -> int:
    """Give every word of the vocabulary that the file knows its vector.

    The other vectors are drawn at random, with the mean and spread of the file's vectors.

    Args:
        tune: False freezes the whole table, including the random vectors.

    Returns:
        how many words were found.

    Raises:
        UserError: the file is missing, a line is damaged, the vectors have another width, or no
            word is in common.
    """
    found = read_vectors(Path(path), tokenizer.words(), embedding.embedding_dim)
    if not found:
        raise UserError(
            f"{path} contains none of the captions' words: is it a file of English words "
            "in lower case?"
        )
    known = torch.stack(list(found.values()))
    with torch.no_grad():
        embedding.weight.normal_().mul_(known.std(0, correction=0)).add_(known.mean(0))
        embedding.weight[list(found)] = known
    embedding.weight.requires_grad_(tune)
    return len(found)


def read_vectors(path: Path, ids: dict[str, int], width: int) -> dict[int, Tensor]:
    """Return id -> vector (E,) for the words in `ids`. If a word has two lines, the first one
    counts."""
    found: dict[int, Tensor] = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                word, *values = line.rstrip("\n").rsplit(
                    " ", width
                )  # some words of the larger files hold a space
                if len(values) != width or (" " in word and _is_number(word.split(" ")[-1])):
                    raise UserError(
                        f"{path}, line {number}: expected a word and {width} numbers "
                        f"(args.embedding): {line[:40]!r}"
                    )
                if word in ids and ids[word] not in found:
                    found[ids[word]] = _vector(values, path, number)
    except OSError as error:
        raise UserError(
            f"word vectors {path}: {error.strerror}; unpack GloVe's text file there"
        ) from None
    return found


def _vector(values: list[str], path: Path, number: int) -> Tensor:
    try:
        return torch.tensor([float(v) for v in values])
    except ValueError as error:
        raise UserError(
            f"{path}, line {number}: {error}: the file is damaged: unpack it again"
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
