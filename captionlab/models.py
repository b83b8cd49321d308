"""Find a model's folder by name: champion, a variant, a folder, or an MLflow address."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import paths
from pipeline.core.errors import UserError
from pipeline.core.registry import nearest

if TYPE_CHECKING:
    from pipeline.captioner.captioner import Captioner

# How MLflow's addresses begin.
STORED = ("runs:/", "models:/")


def open_captioner(model: str, dataset: str | None, device: str | None = None) -> "Captioner":
    """Load a model by name. Arguments and errors are those of `open_folder`.

    Args:
        device: name of a torch device; by default the fastest.
    """
    with open_folder(model, dataset) as folder:
        return load(folder, device)


@contextmanager
def open_folder(model: str, dataset: str | None) -> Iterator[Path]:
    """Yield the folder of a model. A download from MLflow is deleted afterwards.

    Args:
        model: champion, a variant of this workspace, a model folder, `runs:/...` or `models:/...`.
        dataset: dataset whose champion to use; required if there are several.

    Raises:
        UserError: there is no such model; a dataset is named, but the model is not champion; or
            MLflow does not answer.
    """
    check_dataset(model, dataset)
    if model != "champion" and not model.startswith(STORED):
        yield model_folder(model)
        return
    from captionlab.champion import champion_uri, stored_folder
    from pipeline.tracking.store import open_store

    store = open_store()
    uri = champion_uri(store, dataset) if model == "champion" else model
    with stored_folder(store, uri) as folder:
        yield folder


def check_dataset(model: str, dataset: str | None) -> None:
    """Raise a UserError if a dataset is named, but the model is not champion."""
    if dataset is not None and model != "champion":
        raise UserError(
            f"dataset '{dataset}' chooses among champions, and the model is {model}: leave out one "
            "of the two"
        )


def model_folder(model: str) -> Path:
    """Return the folder of a variant of this workspace, or else the path itself."""
    for folder in (paths.MODELS / model, Path(model)):
        if folder.is_dir():
            return folder
    known = ["champion", *variants()]
    raise UserError(
        f"unknown model '{model}'{nearest(model, known)}: there are {', '.join(known)}, or "
        "name a model folder"
    )


def variants() -> list[str]:
    """Return the names of the variants that this workspace has trained."""
    return sorted(path.name for path in paths.MODELS.glob("[!.]*") if path.is_dir())


def load(
    folder: Path, device: str | None = None, decode: dict[str, Any] | None = None
) -> "Captioner":
    """Load a model folder, or a folder in Hugging Face's layout that `captionlab export` wrote.

    A variant of this workspace decodes as params.yaml says. Any other folder decodes as its
    decode.json says. One without that file decodes as params.yaml of its own workspace says, or
    else greedily, which is reported on standard error.

    Args:
        decode: decoding options of a captioner that was loaded from this folder in its workspace.
            They are for a machine without the workspace.
    """
    from captionlab.export.hf_read import check_is_ours, is_export, read
    from pipeline.captioner.captioner import Captioner

    if is_export(folder):
        return read(folder, device)
    check_is_ours(folder)
    if decode is None:
        decode = _decoding(folder)
    return Captioner.load(folder, device, decode)


def _decoding(folder: Path) -> dict[str, Any] | None:
    """Return the decoding of the workspace that a model folder is in; None if the folder itself has
    to say."""
    from pipeline.core.errors import say
    from pipeline.experiment.params import load_params

    models = folder.resolve().parent
    here = models == paths.MODELS.resolve()
    if not here and (folder / "decode.json").is_file():
        return None
    params_file = models.parent / "params.yaml"
    if here or (models.name == paths.MODELS.name and params_file.is_file()):
        params = load_params(Path("params.yaml") if here else params_file)
        if folder.name in params.variants:
            return params.decoding(folder.name).model_dump()
    if not (folder / "decode.json").is_file():
        say(f"{folder} does not say how it decodes (it has no decode.json): greedily", sys.stderr)
    return None
