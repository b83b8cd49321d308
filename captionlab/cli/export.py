"""`captionlab export`: write a model for other software."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captionlab.models import open_captioner
from pipeline.core.errors import UserError, say

if TYPE_CHECKING:
    from pipeline.captioner.captioner import Captioner


def command(
    model: Annotated[
        str, typer.Argument(help="champion, a variant, a model folder, runs:/... or models:/...")
    ],
    to: Annotated[Path, typer.Option(help="A new or empty folder.")],
    form: Annotated[str, typer.Option("--format", help="hf (Hugging Face's layout) or onnx.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="Dataset whose champion to use; required if there are several."),
    ] = None,
) -> None:
    """Write a model with its card, in Hugging Face's layout or as ONNX graphs. It can be loaded
    without this project."""
    from captionlab.export import check, export

    check(to, form)
    captioner = open_captioner(model, dataset)
    export(captioner, to, form, captioner.card or _card(model, captioner))
    say(f"{model} is in {to}: see its README.md")


def _card(variant: str, captioner: "Captioner") -> str:
    """Return the card of a model whose folder holds none.

    Publishing a variant writes its card, but it can be made here as well.
    """
    from pipeline.core import paths
    from pipeline.experiment.params import load_params
    from pipeline.tracking.model_card import Run, card
    from pipeline.tracking.payload import gather, readme

    try:
        return readme(gather(variant, load_params(), paths))
    except UserError:  # no variant of this workspace, or one without scores
        return card(captioner.config, captioner.decode, Run())
