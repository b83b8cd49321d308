"""`captionlab doctor`: what is there, what is not, and what to do."""

import typer

from pipeline.core import paths
from pipeline.core.errors import say


def command() -> None:
    """Check environment, Java, device, MLflow, DVC, disk and git: a line each; exit 2 where
    something is a problem."""
    from captionlab.doctor import diagnose
    from pipeline.experiment.params import load_params

    problems = 0
    for finding in diagnose(paths, load_params):
        say(finding)
        problems += finding.state == "problem"
    if problems:
        raise typer.Exit(2)
