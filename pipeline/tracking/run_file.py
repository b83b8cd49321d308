"""checkpoints/VARIANT/mlflow.json, which names the run that a training's live curves go to.

The file is not a DVC output, so nothing can restore a damaged one. It is treated as missing.
"""

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from pipeline.core.errors import UserError
from pipeline.data.checked import read_checked
from pipeline.data.files import write_json


class RunFile(BaseModel):
    """The content of the file."""

    tracking_uri: str
    "Address of the store."
    run_id: str
    params: str
    "Fingerprint of the variant's params, by which a training recognises its own run."


def write_run_file(file: Path, run: RunFile) -> None:
    write_json(file, run.model_dump())


def read_run_file(file: Path) -> RunFile | None:
    """Return the content of the file, or None if it is missing or damaged."""
    if file.is_file():
        with suppress(UserError):
            return RunFile(**read_checked(file, RunFile))
    return None
