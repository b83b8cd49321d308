"""All scores of one row of the result tables, and the files that hold them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.files import whole_folder, write_json
from pipeline.experiment.protocols import STANDARD
from pipeline.results.estimates import Estimate
from pipeline.results.scores import OWN, Score, ScoreTable
from pipeline.scoring.bootstrap import resample_table
from pipeline.scoring.score import Scored

# Scores that `dvc metrics` shows.
GLANCE = ("bleu_4", "meteor", "rouge_l", "cider")


@dataclass(frozen=True)
class ScoredRow:
    """One `Scored` per protocol and seed."""

    parts: dict[tuple[str, str], Scored]
    "(Protocol, seed) -> scores. The standard scores of the row's own system come first."

    @property
    def standard(self) -> Scored:
        """Scores of the row's own system under the standard protocol."""
        return self.parts[STANDARD, OWN]

    @property
    def scores(self) -> ScoreTable:
        """All scores as one long table, split by split."""
        rows = (
            _score(scored, split, protocol, seed, metric)
            for split in self.standard.summary
            for (protocol, seed), scored in self.parts.items()
            for metric in scored.summary.get(split, {})
        )
        return ScoreTable(tuple(rows))

    @property
    def per_image(self) -> pd.DataFrame:
        """Table with image_id, split, protocol, seed, and a column per per-image score."""
        tables = []
        for (protocol, seed), scored in self.parts.items():
            if len(scored.per_image):  # empty for a mean and for teacher forcing
                table = scored.per_image.copy(deep=False)
                table.insert(2, "protocol", protocol)
                table.insert(3, "seed", seed)
                tables.append(table)
        return pd.concat(tables, ignore_index=True)

    @property
    def resamples(self) -> pd.DataFrame:
        """Table with the columns of `resample_table`. A score that a part lacks is empty in that
        part's rows."""
        tables = [
            resample_table(scored.resamples, scored.images, protocol, seed)
            for (protocol, seed), scored in self.parts.items()
        ]
        return pd.concat(tables, ignore_index=True)

    @property
    def unavailable(self) -> dict[str, str]:
        """Metric -> why it could not run."""
        return {m: why for part in self.parts.values() for m, why in part.unavailable.items()}


def _score(scored: Scored, split: str, protocol: str, seed: str, metric: str) -> Score:
    value, drawn = scored.summary[split][metric], scored.resamples.get(split, {}).get(metric)
    low, high = (None, None) if drawn is None else Estimate(value, drawn, "").interval
    sd = scored.sd.get(split, {}).get(metric)
    return Score(split, protocol, seed, metric, float(value), low, high, sd)


def write_scores(row: ScoredRow, about: dict[str, Any], folder: Path, metrics: Path) -> None:
    """Write scores.csv, images.parquet, resamples.parquet and about.json into `folder`, and the
    scores of `GLANCE` into the file `metrics`.

    Args:
        about: facts that about.json holds in addition to the metrics that could not run.
    """
    scores = row.scores
    with whole_folder(folder) as part:
        row.per_image.to_parquet(part / "images.parquet", index=False)
        row.resamples.to_parquet(part / "resamples.parquet", index=False)
        write_json(part / "about.json", {**about, "unavailable": row.unavailable})
        scores.write(part / "scores.csv")
    write_json(metrics, glance(scores))


def glance(scores: ScoreTable) -> dict[str, dict[str, float]]:
    """Return split -> score -> value for the row's own system under the standard protocol, with
    the scores of `GLANCE` only."""
    out: dict[str, dict[str, float]] = {split: {} for split in scores.splits}
    for row in scores:
        if row.metric in GLANCE and (row.protocol, row.seed) == (STANDARD, OWN):
            out[row.split][row.metric] = row.value
    return out
