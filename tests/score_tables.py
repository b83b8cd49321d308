"""Tables of scores for tests, from the few figures that a test is about."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.experiment.protocols import STANDARD
from pipeline.results.scores import OWN, Score, ScoreTable

Figures = Mapping[str, Mapping[str, float]]
"split -> metric -> value"


def scores(
    figures: Figures, protocol: str = STANDARD, seed: str = OWN, sd: Mapping[str, float] = {}
) -> ScoreTable:
    """Args: sd: metric -> standard deviation, of means; the same in every split."""
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
    """split -> metric -> value of a scores.csv: standard, of the row's own system."""
    table = ScoreTable.read(path)
    return {
        split: {metric: table.value(split, metric) for metric in table.metrics(split)}  # type: ignore[misc]
        for split in table.splits
    }
