"""`captionlab push`: upload a model to the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from captionlab.models import open_captioner
from pipeline.core.errors import say

if TYPE_CHECKING:
    from captionlab.upload import Repository


def command(
    model: Annotated[
        str, typer.Argument(help="champion, a variant, a model folder, runs:/... or models:/...")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="USER/REPO", help="A repository on the hub; created if it does not exist."
        ),
    ],
    form: Annotated[
        str, typer.Option("--format", help="hf or onnx, as for captionlab export.")
    ] = "hf",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset whose champion to use, if several have one. Default: that of params.yaml."
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; the default is private.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Branch, created if it does not exist; default: main."),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List what would be uploaded; needs no network and no token."
        ),
    ] = False,
) -> None:
    """Upload a model to the Hugging Face hub, with its card, as `captionlab export` writes it.

    A new repository is private. An existing one keeps its visibility and its other files.
    """
    from captionlab.export import check_format
    from captionlab.upload import check_name, find, upload

    check_name(to)
    check_format(form)
    if dry_run:
        with _exported(model, dataset, form) as folder:
            _list(folder)
        shown = "public" if public else "private"
        say(f"dry run, nothing was uploaded: a new {to} would be {shown}")
        return
    repository = find(to, public)
    _announce(repository, public)
    with _exported(model, dataset, form) as folder:
        address = upload(
            repository, folder, revision, message or f"{_last(model)}, by captionlab push"
        )
    say(f"{model} is at {address} ({repository.visibility})")


@contextmanager
def _exported(model: str, dataset: str | None, form: str) -> Iterator[Path]:
    """Yield the folder that `captionlab export` would write, and delete it afterwards."""
    from captionlab.export import export
    from captionlab.export.card import finished_card

    captioner = open_captioner(model, dataset)
    card = finished_card(model, captioner)
    with TemporaryDirectory(prefix="captionlab-push-") as temporary:
        folder = Path(temporary) / "model"
        export(captioner, folder, form, card)
        yield folder


def _last(model: str) -> str:
    """Return the name of a model without the folders of this machine."""
    return Path(model).name if Path(model).is_dir() else model


def _list(folder: Path) -> None:
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for name, size in sizes.items():
        say(f"{size:>15,}  {name}")
    say(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files")


def _announce(repository: "Repository", public: bool) -> None:
    if repository.is_new:
        say(f"{repository.name} will be created, {repository.visibility}")
    elif public and repository.private:
        say(f"{repository.name} exists and stays private, although --public is given")
    else:
        say(f"{repository.name} exists, {repository.visibility}")
