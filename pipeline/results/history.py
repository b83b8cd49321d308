"""The history of a training: data/history/<variant>.csv, with one row per epoch."""

import csv
import math
from pathlib import Path

from pipeline.core.errors import UserError, brief, let_through
from pipeline.data.checked import RESTORE


def read_history(path: Path) -> list[dict[str, float]]:
    """Return column -> number for each epoch. Empty cells, which mean that the epoch lacks the
    figure, are left out.

    Raises:
        UserError: the file is missing, is another table, or holds a NaN or infinite number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        return [_row(row) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run dvc repro") from None
    except (OSError, ValueError, TypeError, csv.Error) as error:
        let_through(error)
        raise UserError(f"{path} is not a training history: {brief(error)}: {RESTORE}") from None


def _row(row: dict[str, str]) -> dict[str, float]:
    if None in (*row, *row.values()) or not (row.get("epoch") and row.get("step")):
        raise ValueError("a line has too few fields, too many, or no epoch and step")
    numbers = {name: float(cell) for name, cell in row.items() if cell}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} is {number} in epoch {row['epoch']}")
    return numbers
