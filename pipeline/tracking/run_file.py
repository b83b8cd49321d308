"""checkpoints/VARIANT/mlflow.json: the run that a training's live curves go to. It is no output of
DVC, so nothing brings a damaged one back: it tells of no run."""

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from pipeline.core.errors import UserError
from pipeline.data.checked import read_checked
from pipeline.data.files import write_json


class RunFile(BaseModel):
    """What the file holds."""

    tracking_uri: str
    "the address of the store"
    run_id: str
    params: str
    "fingerprint of the variant's values, by which a training knows its own run again"


def write_run_file(file: Path, run: RunFile) -> None:
    write_json(file, run.model_dump())


def read_run_file(file: Path) -> RunFile | None:
    """None where there is none, or it is damaged."""
    if file.is_file():
        with suppress(UserError):
            return RunFile(**read_checked(file, RunFile))
    return None
