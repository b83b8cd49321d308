"""The model card of a model that leaves the workspace."""

import re
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError, one_line

if TYPE_CHECKING:
    from pipeline.captioner.captioner import Captioner

# What the section on files contains that pipeline/tracking/model_card.py writes.
LOADS = "from pipeline.captioner.captioner import Captioner"


def card_of(model: str, captioner: "Captioner") -> str:
    """Return the card of the model's folder or of its run, without its section on the files of that
    folder: an export has others. Without either, describe config.json."""
    from pipeline.tracking.model_card import Run, card

    try:
        found = captioner.card or _card_of_run(model)
    except UserError:  # no variant of this workspace, or one without scores
        found = card(captioner.config, captioner.decode, Run())
    return _of_export(found)


def finished_card(model: str, captioner: "Captioner") -> str:
    """Return the same, of a folder or a run that has a card.

    Raises:
        UserError: neither exists.
    """
    if captioner.card.strip():
        return _of_export(captioner.card)
    try:
        return _of_export(_card_of_run(model))
    except UserError as error:
        raise UserError(
            f"{model} has no model card ({one_line(error)}): write README.md into its folder, or "
            "name a variant of this workspace that has scores"
        ) from None


def _of_export(card: str) -> str:
    """Leave out the section on how a folder of this workspace is loaded."""
    parts = re.split(r"(?m)^(?=## )", card)
    kept = [part for part in parts if not (part.startswith("## Files\n") and LOADS in part)]
    return "".join(kept).rstrip() + "\n"


def _card_of_run(variant: str) -> str:
    """Publishing a variant writes its card, but it can be made here as well."""
    from pipeline.core import paths
    from pipeline.experiment.params import load_params
    from pipeline.tracking.payload import gather, readme

    return readme(gather(variant, load_params(), paths))
