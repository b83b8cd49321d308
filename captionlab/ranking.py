"""Find the comparable finished runs of a store, and rank them by validation score."""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from captionlab.here import the_dataset
from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.results.estimates import Estimate, p_value, read_estimates
from pipeline.results.scores import MEAN, OWN, Score, ScoreTable
from pipeline.results.values import LOWER_IS_BETTER, NO_DIRECTION
from pipeline.tracking.fetching import fetching
from pipeline.tracking.metric_names import MetricName
from pipeline.tracking.store import Store, find_runs

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Candidate:
    variant: str
    corpus: str
    run_id: str
    val: float | None
    "The validation score that decides; None if the run has none."
    test: float | None
    "The test score, which is shown but never used."
    p: float | None = None
    "The p-value of the paired bootstrap against the best; None if the two cannot be paired."


def candidates(store: Store, dataset: str | None, current: dict[str, str]) -> "list[Run]":
    """Return the finished runs of a dataset, one per variant.

    The arguments are those of `champion.register`.
    """
    return _one_per_variant(
        _of_dataset(find_runs(store, "attributes.status = 'FINISHED'"), dataset), current
    )


def _of_dataset(runs: "list[Run]", dataset: str | None) -> "list[Run]":
    there = sorted({run.data.tags["dataset"] for run in runs if "dataset" in run.data.tags})
    if not there:
        raise UserError(
            "MLflow holds no finished run: run dvc repro, or captionlab sync if that is done"
        )
    dataset = the_dataset(dataset, there)
    if dataset is None and len(there) > 1:
        raise UserError(
            f"there are runs of {len(there)} datasets, name one with --dataset: {', '.join(there)}"
        )
    if dataset is not None and dataset not in there:
        raise UserError(
            f"no finished run of dataset '{dataset}' in MLflow{nearest(dataset, there)}: there are "
            f"{', '.join(there)}"
        )
    return [run for run in runs if run.data.tags.get("dataset") == (dataset or there[0])]


def _one_per_variant(runs: "list[Run]", current: dict[str, str]) -> "list[Run]":
    out: dict[str, Run] = {}
    for run in runs:  # the newest first
        variant = run.data.tags["variant"]
        if variant not in out or run.data.tags["fingerprint"] == current.get(variant):
            out[variant] = run
    return list(out.values())


def comparable(runs: "list[Run]", current: dict[str, str], like: str | None) -> "list[Run]":
    """Return the runs that share one protocol and one set of references.

    They are those of the variant `like`, or else those of this workspace.

    Raises:
        UserError: there is no variant `like`, or there are several groups of comparable runs. The
            message tells the groups apart.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(_scored_on(run), []).append(run)
    if like is not None:
        known = {run.data.tags["variant"]: run for run in runs}
        if like not in known:
            raise UserError(
                f"no finished run of a variant '{like}' in MLflow{nearest(like, known)}: there are "
                f"{', '.join(sorted(known))}"
            )
        return groups[_scored_on(known[like])]
    own = [group for group in groups.values() if any(_is_current(run, current) for run in group)]
    found = own or list(groups.values())
    if len(found) == 1:
        return found[0]
    told = "; ".join(
        f"{_about(group[0])} ({', '.join(sorted(r.data.tags['variant'] for r in group))})"
        for group in found
    )
    raise UserError(
        "these runs do not compare, name a variant with --like to choose among its own "
        f"kind: {told}"
    )


def _scored_on(run: "Run") -> tuple[str, str]:
    """Return the protocol of a run and the version of its references.

    The protocol names data set, split, tokens and decoding. The references are those of validation
    and test.
    """
    tags = run.data.tags
    return tags.get("protocol", ""), tags.get(f"dvc.data/references/{tags.get('corpus')}", "")


def _about(run: "Run") -> str:
    protocol, references = _scored_on(run)
    return f"{protocol}; references {references[:8] or 'unknown'}"


def _is_current(run: "Run", current: dict[str, str]) -> bool:
    return run.data.tags["fingerprint"] == current.get(run.data.tags["variant"])


def rank(store: Store, runs: "list[Run]", metric: str) -> list[Candidate]:
    """Return the candidates, best validation score first and ties by name.

    Each has its p-value against the best.

    Raises:
        UserError: no run has the metric, or the metric has no better direction.
    """
    there = {MetricName.parse(name) for run in runs for name in run.data.metrics}
    known = sorted(
        name.within_split
        for name in there
        if name.split == "val" and name.metric not in NO_DIRECTION and name.seed in (OWN, MEAN)
    )
    wanted = MetricName.parse(f"val/{metric}")
    if wanted.metric in NO_DIRECTION:
        raise UserError(
            f"of {metric} neither high nor low is better: choose by one of {', '.join(known)}"
        )
    if metric not in known:
        raise UserError(
            f"no run has the validation metric '{metric}'{nearest(metric, known)}: there are "
            f"{', '.join(known) or 'none'}"
        )
    sign = 1 if wanted.metric in LOWER_IS_BETTER else -1
    found = [_candidate(run, wanted) for run in runs]
    ranking = sorted(found, key=lambda c: (math.inf if c.val is None else sign * c.val, c.variant))
    return _with_p_values(store, ranking, wanted)


def _candidate(run: "Run", wanted: MetricName) -> Candidate:
    values, tags = run.data.metrics, run.data.tags
    val = values.get(str(wanted), math.nan)
    return Candidate(
        tags["variant"],
        tags["corpus"],
        run.info.run_id,
        None if math.isnan(val) else val,
        values.get(str(replace(wanted, split="test"))),
    )


def _with_p_values(store: Store, ranking: list[Candidate], wanted: MetricName) -> list[Candidate]:
    """Add each candidate's p-value against the best, from the resamples that the runs hold."""
    best, *others = ranking
    top = _estimate(store, best, wanted) if others else None
    pairs = [(other, _estimate(store, other, wanted) if top else None) for other in others]
    return [
        best,
        *(replace(other, p=p_value(top, own) if top and own else None) for other, own in pairs),
    ]


def _estimate(store: Store, candidate: Candidate, wanted: MetricName) -> Estimate | None:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    if candidate.val is None:
        return None
    path = f"scores/{candidate.variant}/resamples.parquet"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with fetching(Path(folder)):
                fetched = download_artifacts(
                    run_id=candidate.run_id,
                    artifact_path=path,
                    dst_path=folder,
                    tracking_uri=store.uri,
                )
        except (MlflowException, OSError):  # an old run, which has no resamples
            return None
        score = Score(*wanted.key, candidate.val)
        return read_estimates(Path(fetched), ScoreTable((score,))).get(wanted.key)
