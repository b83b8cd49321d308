"""`captionlab plan`: print what an experiment would cost."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core import paths
from pipeline.core.errors import UserError, say


def command(
    experiment: Annotated[Path, typer.Argument(metavar="FILE", help="An experiment.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Print what an experiment would cost: parameters, disk space and downloads of every row, and
    the paper's row beside it. It is an error if this machine cannot hold the experiment."""
    from captionlab.fits import problems
    from captionlab.plan import plan as make_plan
    from captionlab.plan import render
    from pipeline.core.capacity import refuse
    from pipeline.experiment.params import load_params

    params = load_params(experiment)
    planned = make_plan(params, paths.CORPORA)
    say(render(planned, str(experiment)))
    if lacking := [row for row in planned.rows if row.lacks]:
        more = f" (see above; {len(lacking) - 1} more cannot run)" if lacking[1:] else ""
        raise UserError(f"{experiment}: {lacking[0].name} cannot run: {lacking[0].lacks}{more}")
    refuse("; ".join(problems(params, planned)) or None)
