"""Check, before training begins, that its options can work."""

import sys

from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Decoder
from pipeline.experiment.params import Training


def check_options(options: Training, decoder: Decoder) -> None:
    """Check that the options suit each other and the decoder.

    Raises:
        UserError: they do not.
    """
    if options.self_critical_epochs and options.select == "loss":
        raise UserError(
            "train.select is loss, which self-critical training raises: select cider or bleu_4"
        )
    if not options.epochs and not decoder.published:
        raise UserError(
            "train.epochs is 0, which uses a published model without training, but "
            "this decoder loads "
            "none: set train.epochs to 1 or more, or name a model in its args (model of vit_gpt2, "
            "blip, git or vlm, checkpoint of prefix_lm)"
        )
    if options.epochs and not any(weight.requires_grad for weight in decoder.parameters()):
        raise UserError(
            f"train.epochs is {options.epochs}, and no weight of this decoder is trained: set "
            "args.tune to adapter or all, or train.epochs to 0"
        )


def warn_of_long_warmup(options: Training, batches: int) -> None:
    """Print one line if the warm-up ends after the last step, so that `lr` is never reached.

    Args:
        batches: number of steps per epoch.
    """
    steps = options.epochs * batches
    if options.warmup_steps > steps > 0:
        highest = options.lr * steps / options.warmup_steps
        print(
            f"train.warmup_steps is {options.warmup_steps}, but the training has {steps} steps: "
            f"the learning rate ends at {highest:.3g} and never reaches train.lr, {options.lr:g}. "
            "Lower train.warmup_steps.",
            file=sys.stderr,
            flush=True,
        )
