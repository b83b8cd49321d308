"""The scores of one row of the result tables, as one long table: data/scores/<row>/scores.csv.

    split,protocol,seed,metric,value,low,high,sd
    test,standard,,cider,0.81,0.78,0.84,
    test,raw,,cider,0.83,0.8,0.86,
    test,standard,2,cider,0.79,0.76,0.82,
    test,standard,mean,cider,0.8,0.77,0.83,0.0141421356

Separate columns say what a score belongs to, so a score's name never has to be parsed.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.core.errors import UserError, brief, let_through
from pipeline.data.checked import RESTORE, need_columns, read_table
from pipeline.data.files import whole_file
from pipeline.experiment.protocols import STANDARD

if TYPE_CHECKING:
    import pandas as pd

# The seed of the row's own system: the model in models/<row>, trained with the first of
# `train.seeds`, or a baseline, which has no seed. The number is not written out, because scoring
# reads captions and does not depend on `train.seeds`.
OWN = ""
# Metrics of teacher forcing, which come from the network's own probabilities.
OF_THE_NETWORK = {"loss", "perplexity", "top5"}
# The seed of a mean over all trainings of the row.
MEAN = "mean"


class Key(NamedTuple):
    """What identifies a score."""

    split: str
    protocol: str
    "Name of a protocol in protocols.yaml."
    seed: str
    "OWN, the number of a further training, or MEAN."
    metric: str
    "Usual name of the metric in the field, such as `cider`, without protocol and seed."


@dataclass(frozen=True)
class Score:
    """A line of the table."""

    split: str
    protocol: str
    seed: str
    metric: str
    value: float
    low: float | None = None
    "Lower end of the 95 % bootstrap interval over images. None if there is no interval."
    high: float | None = None
    "Upper end of that interval."
    sd: float | None = None
    "Standard deviation over trainings (n - 1 degrees of freedom). None if the score is no mean."

    @property
    def key(self) -> Key:
        return Key(self.split, self.protocol, self.seed, self.metric)


@dataclass(frozen=True)
class ScoreTable:
    """The table of one row, with methods to query it."""

    rows: tuple[Score, ...]

    def __iter__(self) -> Iterator[Score]:
        return iter(self.rows)

    @cached_property
    def _by_key(self) -> dict[Key, Score]:
        return {row.key: row for row in self.rows}

    def get(self, key: Key) -> Score | None:
        return self._by_key.get(key)

    def value(
        self, split: str, metric: str, protocol: str = STANDARD, seed: str = OWN
    ) -> float | None:
        """Return the value of a score, or None if it was not measured."""
        row = self.get(Key(split, protocol, seed, metric))
        return row.value if row else None

    def metrics(self, split: str, protocol: str = STANDARD, seed: str = OWN) -> list[str]:
        """Return the metrics that were measured, in the order of the table."""
        return [r.metric for r in self.rows if r.key[:3] == (split, protocol, seed)]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(row.split for row in self.rows))

    @property
    def protocols(self) -> list[str]:
        """Protocols other than the standard one."""
        return list(dict.fromkeys(r.protocol for r in self.rows if r.protocol != STANDARD))

    def records(self) -> list[dict[str, Any]]:
        """Return the lines as dicts that JSON can hold."""
        return [asdict(row) for row in self.rows]

    def write(self, path: Path) -> None:
        """Write the table as CSV. Floats read back as the same number.

        Raises:
            UserError: a score is NaN or infinite.
        """
        for row in self.rows:
            if not all(
                math.isfinite(n) for n in (row.value, row.low, row.high, row.sd) if n is not None
            ):
                name = " ".join(filter(None, [row.split, row.protocol, row.seed, row.metric]))
                raise UserError(
                    f"{path} cannot be written: {name} is not finite ({row.value}): {_cure(row)}"
                )
        with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.records())

    @classmethod
    def of_records(cls, records: list[dict[str, Any]]) -> "ScoreTable":
        """Restore a table from what `records` returned."""
        return cls(tuple(Score(**record) for record in records))

    @classmethod
    def read(cls, path: Path) -> "ScoreTable":
        """Read a file that `write` wrote.

        Raises:
            UserError: the file is missing or is another table.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                lines = list(csv.DictReader(file, strict=True))
            if any(None in (*line, *line.values()) or not line["value"] for line in lines):
                raise ValueError("a line has too few fields, too many, or no value")
            return cls.of_records(
                [line | {name: _number(line[name]) for name in NUMBERS} for line in lines]
            )
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            let_through(error)
            raise UserError(f"{path} is not a table of scores: {brief(error)}: {RESTORE}") from None


def _cure(row: Score) -> str:
    """Return advice for a score that is not finite. It is a network's loss, or a metric's result
    for captions."""
    if row.metric in OF_THE_NETWORK:
        return "train again with a lower train.lr"
    return f"see what the metric in pipeline/metrics/ makes of {row.split}'s captions"


COLUMNS = [field.name for field in fields(Score)]
NUMBERS = COLUMNS[len(Key._fields) :]


def _number(cell: str) -> float | None:
    number = float(cell) if cell else None
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{cell} is not a score")
    return number


def own_standard(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the lines of the row's own system under the standard protocol.

    Args:
        table: a table with the columns protocol and seed, which the result lacks.
    """
    own = table[(table["protocol"] == STANDARD) & (table["seed"] == OWN)]
    return own.drop(columns=["protocol", "seed"])


def read_image_scores(path: Path) -> "pd.DataFrame":
    """Return the scores of each image, of the row's own system under the standard protocol.

    Raises:
        UserError: as in `read_table`.
    """
    table = read_table(path)
    need_columns([*map(str, table)], ["image_id", "split", "protocol", "seed"], path)
    return own_standard(table)
