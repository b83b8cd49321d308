"""What the workspace in the working directory holds, as far as commands need it that also work
outside of one."""

import csv
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import UserError
from pipeline.core.yaml12 import read_yaml

PARAMS = Path("params.yaml")


def _names(section: str) -> list[str]:
    """Return the rows of a section of params.yaml; none if there is no such file."""
    try:
        params = read_yaml(PARAMS)
    except (UserError, OSError, ValueError):
        return []
    rows = params.get(section) if isinstance(params, dict) else None
    return [str(name) for name in rows] if isinstance(rows, dict) else []


def the_dataset(asked: str | None, known: list[str]) -> str | None:
    """Return the data set that a command is about: the one it was asked for, else the only one of
    `known` that params.yaml names. None if that is not clear."""
    here = [name for name in known if name in _names("datasets")]
    return here[0] if asked is None and len(known) > 1 and len(here) == 1 else asked


def scored() -> list[str]:
    """Return the rows of params.yaml that have scores."""
    return [name for name in _names("variants") if (paths.SCORES / name / "scores.csv").is_file()]


def not_in_table() -> list[str]:
    """Return the rows that have scores, but are not in the result table, if there is one."""
    table = paths.TABLES / "all.csv"
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        shown = {row.get("variant") for row in csv.DictReader(file)}
    return [name for name in scored() if name not in shown]


def not_published() -> list[str]:
    """Return the rows that have scores, but were never published to MLflow."""
    return [name for name in scored() if not (paths.RECEIPTS / name / "receipt.json").is_file()]
