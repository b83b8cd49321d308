"""The end of a run: a `dvc repro`, which finds everything made and runs what speaks to people."""

import subprocess

from captionlab.running.local import environment, job_command
from pipeline.core.errors import UserError


def finish(stages: list[str]) -> None:
    """Run `dvc repro` on some stages, without any on the whole graph.

    Raises:
        UserError: it fails; DVC has said why.
    """
    command = ["--wait-for-lock", "repro", *stages]
    status = subprocess.run(job_command(*command), env=environment()).returncode
    if status:
        raise UserError(f"dvc {' '.join(command)} failed (status {status}): its last lines say why")
