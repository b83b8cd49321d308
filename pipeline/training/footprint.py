"""The least memory that training takes, from shapes alone.

    4 bytes x (frozen weights + trained weights x (3 + moments) + I x T x 2 x V)

A trained weight stands there with its gradient, the best epoch's copy and the optimizer's moments:
two of adam and adamw, one of sgd with momentum. A step reads I images, whose captions have T tokens
together, and holds a float32 for every word (V) at each of these, and its gradient. What a decoder
computes before that, it keeps for the way back: it comes on top.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.experiment.params import Training

FLOAT32 = 4


def of_training(
    weights: tuple[int, int], options: "Training", tokens: float, words: int, images: int
) -> int:
    """Bytes.

    Args:
        weights: trained ones, and frozen ones.
        tokens: that an image brings, on average: of all its captions, with their end tokens.
        words: of the vocabulary.
        images: of a step.
    """
    trained, frozen = weights
    moments = 2 if options.optimizer != "sgd" else int(options.momentum > 0)
    logits = int(images * tokens * words)
    return FLOAT32 * (frozen + trained * (3 + moments) + 2 * logits)
