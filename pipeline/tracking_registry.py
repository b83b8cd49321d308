"""Choosing the best variant by its validation score, and the registry that serving and the command line ask for it."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.sheets import LOWER_IS_BETTER, NO_DIRECTION
from pipeline.tracking_store import Store, find_runs, trouble

if TYPE_CHECKING:
    from mlflow.entities import Run

PREFIX = "captionlab-"
ALIAS = "champion"


@dataclass(frozen=True)
class Candidate:
    variant: str
    corpus: str
    run_id: str
    val: float | None
    "the validation score that decides; None where the run has none"
    test: float | None
    "shown, never used"


@dataclass(frozen=True)
class Choice:
    metric: str
    ranking: list[Candidate]
    "best first; those without the metric last"
    model: str
    version: str
    is_new: bool


def register(store: Store, dataset: str | None, metric: str, current: dict[str, str]) -> Choice:
    """Register the best finished run of a dataset under `captionlab-<dataset>`, alias `champion`; twice changes nothing.

    Args:
        dataset: None where the store knows only one.
        metric: compared on the validation split.
        current: variant -> fingerprint in this workspace. Such a variant enters with that run, another with its newest.

    Raises:
        UserError: there is no such dataset or metric; the message lists those there are.
    """
    with trouble(store.uri):
        runs = _one_per_variant(_of_dataset(find_runs(store, "attributes.status = 'FINISHED'"), dataset), current)
        ranking = rank(runs, metric)
        best = next(run for run in runs if run.info.run_id == ranking[0].run_id)
        name = PREFIX + best.data.tags["dataset"]
        version, is_new = _version(store, name, best)
        if _champion_version(store, name) != version:
            store.client.set_registered_model_alias(name, ALIAS, version)
        return Choice(metric, ranking, name, version, is_new)


def _of_dataset(runs: "list[Run]", dataset: str | None) -> "list[Run]":
    there = sorted({run.data.tags["dataset"] for run in runs if "dataset" in run.data.tags})
    if not there:
        raise UserError("MLflow holds no finished run: run dvc repro, or captionlab sync if that is done")
    if dataset is None and len(there) > 1:
        raise UserError(f"there are runs of {len(there)} datasets, name one with --dataset: {', '.join(there)}")
    if dataset is not None and dataset not in there:
        raise UserError(f"no finished run of dataset '{dataset}' in MLflow: there are {', '.join(there)}")
    return [run for run in runs if run.data.tags.get("dataset") == (dataset or there[0])]


def _one_per_variant(runs: "list[Run]", current: dict[str, str]) -> "list[Run]":
    out: dict[str, Run] = {}
    for run in runs:  # the newest first
        variant = run.data.tags["variant"]
        if variant not in out or run.data.tags["fingerprint"] == current.get(variant):
            out[variant] = run
    return list(out.values())


def rank(runs: "list[Run]", metric: str) -> list[Candidate]:
    """Best validation score first, equal ones by name.

    Raises:
        UserError: no run has the metric, or neither of its ends is better.
    """
    known = sorted({name.removeprefix("val.") for run in runs for name in run.data.metrics if name.startswith("val.")})
    known = [name for name in known if name not in NO_DIRECTION]
    if metric in NO_DIRECTION:
        raise UserError(f"of {metric} neither high nor low is better: choose by one of {', '.join(known)}")
    if metric not in known:
        raise UserError(f"no run has the validation metric '{metric}': there are {', '.join(known) or 'none'}")
    sign = 1 if metric in LOWER_IS_BETTER else -1
    found = [_candidate(run, metric) for run in runs]
    return sorted(found, key=lambda c: (math.inf if c.val is None else sign * c.val, c.variant))


def _candidate(run: "Run", metric: str) -> Candidate:
    values, tags = run.data.metrics, run.data.tags
    val = values.get(f"val.{metric}", math.nan)
    return Candidate(
        tags["variant"], tags["corpus"], run.info.run_id, None if math.isnan(val) else val, values.get(f"test.{metric}")
    )


def _version(store: Store, name: str, run: "Run") -> tuple[str, bool]:
    """The registered version of a run, and whether it had to be made."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name, description="The alias champion is the best captioner by validation score")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for old in store.client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'"):
        return str(old.version), False
    outputs = store.client.get_run(run.info.run_id).outputs
    if not outputs or not outputs.model_outputs:
        raise UserError(f"run {run.info.run_id} of '{run.data.tags['variant']}' has no model: delete it, then captionlab sync")
    model_id = outputs.model_outputs[0].model_id
    source = store.client.get_logged_model(model_id).artifact_location
    kept = ("variant", "decoder", "encoder", "corpus", "protocol", "fingerprint", "git.commit")
    scores = {k: f"{v:.6g}" for k, v in run.data.metrics.items() if k.startswith(("val.", "test."))}
    tags = {**{k: run.data.tags[k] for k in kept if k in run.data.tags}, **scores}
    made = store.client.create_model_version(name, source, run.info.run_id, tags=tags, model_id=model_id)
    return str(made.version), True


def _champion_version(store: Store, name: str) -> str | None:
    aliases = store.client.get_registered_model(name).aliases
    return str(aliases[ALIAS]) if ALIAS in aliases else None


@contextmanager
def champion_folder(store: Store, dataset: str | None) -> Iterator[Path]:
    """The model folder of a dataset's champion, as `Captioner.load` takes it; a download is deleted afterwards.

    Raises:
        UserError: nothing is registered, or several datasets have a champion and none is named.
    """
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        with trouble(store.uri):
            uri = _champion(store, dataset)
            fetched = download_artifacts(artifact_uri=f"{uri}/artifacts/captioner", dst_path=folder, tracking_uri=store.uri)
        yield Path(fetched)


def champion_uri(store: Store, dataset: str | None) -> str:
    """MLflow's address of a dataset's champion; errors as in `champion_folder`."""
    with trouble(store.uri):
        return _champion(store, dataset)


def _champion(store: Store, dataset: str | None) -> str:
    return f"models:/{_champion_name(store, dataset)}@{ALIAS}"


def _champion_name(store: Store, dataset: str | None) -> str:
    found = store.client.search_registered_models(f"name LIKE '{PREFIX}%'")
    there = sorted(m.name.removeprefix(PREFIX) for m in found if ALIAS in m.aliases)
    if not there:
        raise UserError("no champion is registered: run captionlab register, or name a variant or a folder with --model")
    if dataset is None and len(there) > 1:
        raise UserError(f"{len(there)} datasets have a champion, name one with --dataset: {', '.join(there)}")
    if dataset is not None and dataset not in there:
        raise UserError(f"dataset '{dataset}' has no champion: there are {', '.join(there)}")
    return PREFIX + (dataset or there[0])
