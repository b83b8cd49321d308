"""Register the best variant in MLflow as the champion, which serving and the command line use."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from captionlab.here import the_dataset
from captionlab.ranking import Candidate, candidates, comparable, rank
from pipeline.core.errors import UserError, one_line
from pipeline.core.registry import nearest
from pipeline.data.checked import read_checked
from pipeline.results.estimates import ALPHA
from pipeline.tracking.fetching import fetching
from pipeline.tracking.store import Store
from pipeline.tracking.store_address import address_of_process
from pipeline.tracking.store_faults import trouble

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

PREFIX = "captionlab-"
ALIAS = "champion"
# Alias of the version that was champion before.
PREVIOUS = "previous"
# MLflow's error codes for an address that names nothing.
NO_SUCH_MODEL = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True)
class Choice:
    metric: str
    ranking: list[Candidate]
    "The best first; candidates without the metric last."
    left_out: list[str]
    "Variants whose runs are not comparable with these."
    model: str
    version: str
    is_new: bool
    before: str | None
    "Version whose alias changed from champion to previous; None if there is none."

    @property
    def lead(self) -> str:
        """How far the best is ahead, and whether other validation images could reverse that."""
        best, *others = self.ranking
        text = f"val/{self.metric} {best.val:.4f} is the best of {len(self.ranking)}"
        if not others or others[0].val is None or best.val is None:
            return text
        text += f"; its lead over {others[0].variant}, {abs(best.val - others[0].val):.4f}, is"
        p = others[0].p
        if p is None:
            return f"{text} of unknown weight: the two cannot be paired"
        known = f"p {p:.3f}" if p else "p < 0.002"
        return (
            f"{text} {'within' if p >= ALPHA else 'more than'} noise ({known}, paired "
            "bootstrap over the validation images)"
        )


@dataclass(frozen=True)
class Rollback:
    model: str
    champion: str
    "Version that has the alias champion again."
    variant: str
    previous: str
    "Version that was champion until now."


class Receipt(BaseModel):
    """The part of a variant's receipt.json that the registry needs."""

    fingerprint: str


def published_here(receipts: Path) -> dict[str, str]:
    """Return variant -> fingerprint of what this workspace has published.

    Raises:
        UserError: a receipt is damaged.
    """
    return {
        file.parent.name: read_checked(file, Receipt, "dvc repro writes it anew")["fingerprint"]
        for file in receipts.glob("*/receipt.json")
    }


def register(
    store: Store, dataset: str | None, metric: str, current: dict[str, str], like: str | None = None
) -> Choice:
    """Register the best finished run of a dataset as the champion of `captionlab-<dataset>`.

    A second call changes nothing.

    Args:
        dataset: may be None if the store knows only one, or params.yaml names only one of them.
        metric: score of the validation split that decides.
        current: variant -> fingerprint in this workspace. These variants take part with the run
            of that fingerprint, all others with their newest run.
        like: variant whose protocol and references the other runs must share. It chooses if the
            runs have several.

    Raises:
        UserError: there is no such dataset or metric, or the runs are not comparable. The message
            lists what there is.
    """
    with trouble(store.uri):
        runs = candidates(store, dataset, current)
        chosen = comparable(runs, current, like)
        ranking = rank(store, chosen, metric)
        best = next(run for run in chosen if run.info.run_id == ranking[0].run_id)
        left_out = sorted(run.data.tags["variant"] for run in runs if run not in chosen)
        name = PREFIX + best.data.tags["dataset"]
        version, is_new = _version(store, name, best)
        number, before = str(version.version), _aliases(store, name).get(ALIAS)
        choice = Choice(
            metric, ranking, left_out, name, number, is_new, before if before != number else None
        )
        _describe(store, version, f"{choice.lead}.\n\n{best.data.tags['protocol']}")
        if choice.before:
            store.client.set_registered_model_alias(name, PREVIOUS, choice.before)
        if before != number:
            store.client.set_registered_model_alias(name, ALIAS, number)
        return choice


def roll_back(store: Store, dataset: str | None) -> Rollback:
    """Swap the champion and the previous champion; a second call undoes the first.

    Raises:
        UserError: there is no champion, or no previous one.
    """
    with trouble(store.uri):
        name = _champion_name(store, dataset)
        aliases = _aliases(store, name)
        if aliases.get(PREVIOUS) in (None, aliases[ALIAS]):
            raise UserError(
                f"{name} has no previous champion to go back to: version {aliases[ALIAS]} "
                "is the only one"
            )
        store.client.set_registered_model_alias(name, ALIAS, aliases[PREVIOUS])
        store.client.set_registered_model_alias(name, PREVIOUS, aliases[ALIAS])
        variant = store.client.get_model_version(name, aliases[PREVIOUS]).tags["variant"]
        return Rollback(name, aliases[PREVIOUS], variant, aliases[ALIAS])


def _version(store: Store, name: str, run: "Run") -> "tuple[ModelVersion, bool]":
    """Return the registered version of a run, and whether it is new."""
    from mlflow.exceptions import MlflowException

    try:
        about = (
            "Captioners by validation score. champion: the best one, which is served; "
            "previous: the one before it"
        )
        store.client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for old in store.client.search_model_versions(
        f"name = '{name}' and run_id = '{run.info.run_id}'"
    ):
        return old, False
    outputs = store.client.get_run(run.info.run_id).outputs
    if not outputs or not outputs.model_outputs:
        raise UserError(
            f"run {run.info.run_id} of '{run.data.tags['variant']}' has no model: delete "
            "it, then captionlab sync"
        )
    model_id = outputs.model_outputs[0].model_id
    source = store.client.get_logged_model(model_id).artifact_location
    made = store.client.create_model_version(
        name, source, run.info.run_id, tags=_version_tags(run), model_id=model_id
    )
    return made, True


def _version_tags(run: "Run") -> dict[str, str]:
    """Return tags that name the version, its data and code, and its scores."""
    kept = (
        "variant",
        "dataset",
        "decoder",
        "encoder",
        "corpus",
        "protocol",
        "fingerprint",
        "git.commit",
    )
    told = {
        name: value
        for name, value in run.data.tags.items()
        if name in kept or name.startswith("dvc.")
    }
    return told | {
        k: f"{v:.6g}" for k, v in run.data.metrics.items() if k.startswith(("val/", "test/"))
    }


def _describe(store: Store, version: "ModelVersion", text: str) -> None:
    if version.description != text:
        store.client.update_model_version(version.name, version.version, text)


def _aliases(store: Store, name: str) -> dict[str, str]:
    return {
        alias: str(version)
        for alias, version in store.client.get_registered_model(name).aliases.items()
    }


@contextmanager
def stored_folder(store: Store, uri: str) -> Iterator[Path]:
    """Yield the model folder behind an MLflow address; the download is deleted afterwards.

    Args:
        uri: `runs:/RUN/captioner`, `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises:
        UserError: the store does not answer, or holds no such model.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        with trouble(store.uri), address_of_process(store.uri), fetching(Path(folder)):
            try:
                fetched = download_artifacts(
                    artifact_uri=f"{uri}/artifacts/captioner",
                    dst_path=folder,
                    tracking_uri=store.uri,
                )
            except MlflowException as error:
                if error.error_code not in NO_SUCH_MODEL:
                    raise
                raise UserError(
                    f"MLflow has no model '{uri}' ({one_line(error)}): name champion, "
                    "models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/captioner"
                ) from None
        yield Path(fetched)


class Named(BaseModel):
    """The part of a model's config.json that names it."""

    variant: str | None = None


def shown_name(folder: Path) -> str:
    """Return `champion (VARIANT)` for the champion's model folder."""
    cure = "train it again, then captionlab register"
    variant = read_checked(folder / "config.json", Named, cure).get("variant")
    return f"champion ({variant})" if variant else "champion"


def champion_uri(store: Store, dataset: str | None) -> str:
    """Return MLflow's address of a dataset's champion.

    Raises:
        UserError: nothing is registered, the dataset has no champion, or several datasets have one
            and none is named.
    """
    with trouble(store.uri):
        return _champion(store, dataset)


def _champion(store: Store, dataset: str | None) -> str:
    return f"models:/{_champion_name(store, dataset)}@{ALIAS}"


def _champion_name(store: Store, dataset: str | None) -> str:
    found = store.client.search_registered_models(f"name LIKE '{PREFIX}%'")
    there = sorted(m.name.removeprefix(PREFIX) for m in found if ALIAS in m.aliases)
    if not there:
        raise UserError(
            "no champion is registered: run captionlab register, or name a variant or a "
            "folder with --model"
        )
    dataset = the_dataset(dataset, there)
    if dataset is None and len(there) > 1:
        raise UserError(
            f"{len(there)} datasets have a champion, name one with --dataset: {', '.join(there)}"
        )
    if dataset is not None and dataset not in there:
        near = nearest(dataset, there)
        raise UserError(f"dataset '{dataset}' has no champion{near}: there are {', '.join(there)}")
    return PREFIX + (dataset or there[0])
