"""The model that a command names: champion, a variant of this workspace, or a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import paths
from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from pipeline.captioning.captioner import Captioner


def open_captioner(model: str, dataset: str | None) -> "Captioner":
    with open_folder(model, dataset) as folder:
        return load(folder)


@contextmanager
def open_folder(model: str, dataset: str | None) -> Iterator[Path]:
    """The model's folder; that of a champion may be gone afterwards."""
    if model != "champion":
        yield model_folder(model)
        return
    from captionlab.champion import champion_folder
    from pipeline.tracking.store import open_store

    with champion_folder(open_store(), dataset) as folder:
        yield folder


def model_folder(model: str) -> Path:
    for folder in (paths.MODELS / model, Path(model)):
        if folder.is_dir():
            return folder
    raise UserError(
        f"unknown model '{model}': there are {', '.join(['champion', *variants()])}, or "
        "name a model folder"
    )


def variants() -> list[str]:
    """That this workspace has trained."""
    return sorted(path.name for path in paths.MODELS.glob("[!.]*") if path.is_dir())


def load(folder: Path) -> "Captioner":
    """A variant of this workspace decodes as params.yaml says, any other folder as its decode.json
    does."""
    from pipeline.captioning.captioner import Captioner
    from pipeline.experiment.params import load_params

    if folder.resolve().parent != paths.MODELS.resolve():
        return Captioner.load(folder)
    params = load_params()
    decode = params.decoding(folder.name).model_dump() if folder.name in params.variants else None
    return Captioner.load(folder, decode=decode)
