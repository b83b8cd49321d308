"""The model card of a model that leaves the workspace."""

from typing import TYPE_CHECKING

from pipeline.core.errors import UserError, one_line

if TYPE_CHECKING:
    from pipeline.captioner.captioner import Captioner


def card_of(model: str, captioner: "Captioner") -> str:
    """Return the card of the model's folder or of its run. Without either, describe config.json."""
    if captioner.card:
        return captioner.card
    from pipeline.tracking.model_card import Run, card

    try:
        return _card_of_run(model)
    except UserError:  # no variant of this workspace, or one without scores
        return card(captioner.config, captioner.decode, Run())


def finished_card(model: str, captioner: "Captioner") -> str:
    """Return the card of the model's folder or of its run.

    Raises:
        UserError: neither exists.
    """
    if captioner.card.strip():
        return captioner.card
    try:
        return _card_of_run(model)
    except UserError as error:
        raise UserError(
            f"{model} has no model card ({one_line(error)}): write README.md into its folder, or "
            "name a variant of this workspace that has scores"
        ) from None


def _card_of_run(variant: str) -> str:
    """Publishing a variant writes its card, but it can be made here as well."""
    from pipeline.core import paths
    from pipeline.experiment.params import load_params
    from pipeline.tracking.payload import gather, readme

    return readme(gather(variant, load_params(), paths))
