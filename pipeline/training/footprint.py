"""The least memory that training needs, from shapes alone.

    4 bytes x (frozen weights + trained weights x (3 + moments) + I x F + 2 x min(I x T x V, L))

A trained weight needs space for itself, its gradient, the best epoch's copy and the optimiser's
moments: two for adam and adamw, one for sgd with momentum.

A step, or a part of it (`micro_batch`), reads I images of F numbers each. The captions of an image
have T tokens together. For each token, the step holds one float32 per word of the vocabulary (V),
and its gradient. It holds at most L of these at once (decoders/shared/last_layer.py). What the
decoder computes before that and keeps for backward comes on top.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.experiment.params import Training

FLOAT32 = 4
# Maximum number of logits that the last layer holds at once, as in decoders/shared/last_layer.py.
# That module is not imported because it imports torch.
LOGITS = 2**22


def step_key(options: "Training") -> tuple[str, int]:
    """Return the key of `train` that sets how many images are passed at once, and its value."""
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
    """Return the least number of bytes.

    Args:
        weights: numbers of trained and of frozen weights.
        tokens: average number of tokens per image, over all its captions with their end tokens.
        words: size of the vocabulary.
        numbers: count of numbers in an image's features.
        images: number of images that are passed at once.
    """
    trained, frozen = weights
    moments = 2 if options.optimizer != "sgd" else int(options.momentum > 0)
    logits = min(int(images * tokens * words), LOGITS)
    return FLOAT32 * (frozen + trained * (3 + moments) + images * numbers + 2 * logits)
