"""The end of a run: a `dvc repro`, which finds everything made and runs what speaks to people."""

import os
import subprocess
import sys

from captionlab.running.local import environment
from pipeline.core.errors import UserError


def finish(stages: list[str]) -> None:
    """Run `dvc repro` on some stages, without any on the whole graph.

    Raises:
        UserError: it fails; DVC has said why.
    """
    command = ["--wait-for-lock", "repro", *stages]
    job = [sys.executable, "-m", "captionlab.running.job", str(os.getpid())]
    status = subprocess.run([*job, *command], env=environment()).returncode
    if status:
        raise UserError(f"dvc {' '.join(command)} failed (status {status}): its last lines say why")
