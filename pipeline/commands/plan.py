"""`captionlab plan`: what an experiment would cost."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import layout


def command(
    experiment: Annotated[Path, typer.Argument(metavar="FILE", help="An experiment.")] = Path("params.yaml"),
) -> None:
    """Print what an experiment would cost: parameters, disk and downloads of every row, and the paper's row beside it."""
    from pipeline.params import load_params
    from pipeline.plan import plan as make_plan
    from pipeline.plan import render

    print(render(make_plan(load_params(experiment), layout.CORPORA), str(experiment)))
