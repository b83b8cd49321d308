"""The least memory that training takes, from shapes alone.

    4 bytes x (frozen weights + trained weights x (3 + moments) + I x F + 2 x min(I x T x V, L))

A trained weight stands there with its gradient, the best epoch's copy and the optimizer's moments:
two of adam and adamw, one of sgd with momentum. A step, or a part of it (`micro_batch`), reads the
F numbers of each of I images, whose captions have T tokens together. It holds a float32 for every
word (V) at each of these, and its gradient, but no more than L at once (decoders/shared/
last_layer.py). What a decoder computes before that, it keeps for the way back: it comes on top.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.experiment.params import Training

FLOAT32 = 4
LOGITS = 2**24
"that the last layer holds at once at most (decoders/shared/last_layer.py, which imports torch)"


def step_key(options: "Training") -> tuple[str, int]:
    """The key of `train` that says how many images are passed at once, and its value."""
    if options.micro_batch:
        return "train.micro_batch", options.micro_batch
    return "train.batch_images", options.batch_images


def of_training(
    weights: tuple[int, int],
    options: "Training",
    tokens: float,
    words: int,
    numbers: int,
    images: int,
) -> int:
    """Bytes.

    Args:
        weights: trained ones, and frozen ones.
        tokens: that an image brings, on average: of all its captions, with their end tokens.
        words: of the vocabulary.
        numbers: of an image's features.
        images: that are passed at once.
    """
    trained, frozen = weights
    moments = 2 if options.optimizer != "sgd" else int(options.momentum > 0)
    logits = min(int(images * tokens * words), LOGITS)
    return FLOAT32 * (frozen + trained * (3 + moments) + images * numbers + 2 * logits)
