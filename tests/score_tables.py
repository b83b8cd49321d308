"""Score tables for tests, built from the few values that a test is about."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.experiment.protocols import STANDARD
from pipeline.results.scores import OWN, Score, ScoreTable

# Split -> metric -> value.
Figures = Mapping[str, Mapping[str, float]]


def scores(
    figures: Figures, protocol: str = STANDARD, seed: str = OWN, sd: Mapping[str, float] = {}
) -> ScoreTable:
    """Return a score table with these values.

    Args:
        sd: Metric -> standard deviation of a mean over seeds, the same in every split.
    """
    return ScoreTable(
        tuple(
            Score(split, protocol, seed, metric, float(value), sd=sd.get(metric))
            for split, values in figures.items()
            for metric, value in values.items()
        )
    )


def joined(*tables: ScoreTable) -> ScoreTable:
    return ScoreTable(tuple(row for table in tables for row in table))


def summary(path: Path) -> dict[str, dict[str, float]]:
    """Read a scores.csv into a dict: split -> metric -> value. Only the scores under the standard
    protocol of the row's own system are returned."""
    table = ScoreTable.read(path)
    return {
        split: {metric: table.value(split, metric) for metric in table.metrics(split)}  # type: ignore[misc]
        for split in table.splits
    }
