"""End a run with a `dvc repro`: it finds everything made, and runs the stages that report."""

import subprocess

from captionlab.running.local import environment, job_command
from pipeline.core.errors import UserError


def finish(stages: list[str]) -> None:
    """Run `dvc repro` on some stages, or on the whole graph if none are given.

    Raises:
        UserError: `dvc repro` fails; DVC has printed why.
    """
    command = ["--wait-for-lock", "repro", *stages]
    status = subprocess.run(job_command(*command), env=environment()).returncode
    if status:
        raise UserError(f"dvc {' '.join(command)} failed (status {status}): its last lines say why")
