"""`captionlab doctor`: check what is there, what is missing, and say what to do."""

import typer

from pipeline.core import paths
from pipeline.core.errors import say


def command() -> None:
    """Check environment, Java, device, MLflow, DVC, disk and git, and print a line for each. The
    exit status is 2 if there is a problem."""
    from captionlab.doctor import diagnose
    from pipeline.experiment.params import load_params

    problems = 0
    for finding in diagnose(paths, load_params):
        say(finding)
        problems += finding.state == "problem"
    if problems:
        raise typer.Exit(2)
