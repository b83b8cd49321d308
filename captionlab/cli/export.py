"""`captionlab export`: write a model for other software."""

from pathlib import Path
from typing import Annotated

import typer

from captionlab.models import open_captioner
from pipeline.core.errors import say


def command(
    model: Annotated[
        str, typer.Argument(help="champion, a variant, a model folder, runs:/... or models:/...")
    ],
    to: Annotated[Path, typer.Option(help="A new or empty folder.")],
    form: Annotated[str, typer.Option("--format", help="hf (Hugging Face's layout) or onnx.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset whose champion to use, if several have one. Default: that of params.yaml."
        ),
    ] = None,
) -> None:
    """Write a model with its card, in Hugging Face's layout or as ONNX graphs. It can be loaded
    without this project."""
    from captionlab.export import check, export
    from captionlab.export.card import card_of

    check(to, form)
    captioner = open_captioner(model, dataset)
    export(captioner, to, form, card_of(model, captioner))
    say(f"{model} is in {to}: see its README.md")
