"""`captionlab push`: a model on the Hugging Face hub."""

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
        str, typer.Option(metavar="USER/REPO", help="A repository of the hub; a new one is made.")
    ],
    form: Annotated[
        str, typer.Option("--format", help="hf or onnx, as of captionlab export.")
    ] = "hf",
    dataset: Annotated[
        str | None, typer.Option(help="Whose champion, when there are several.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may see it; private without this.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="A new one is made; main without it.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List what would go up; needs no network and no token."),
    ] = False,
) -> None:
    """Upload a model to the Hugging Face hub, with its card, as `captionlab export` writes it.

    A new repository is private. One that is there keeps its visibility and its other files.
    """
    from captionlab.export import check_format
    from captionlab.upload import check_name, find, upload

    check_name(to)
    check_format(form)
    if dry_run:
        with _exported(model, dataset, form) as folder:
            _list(folder)
        say(f"dry run, nothing went up: a new {to} would be {'public' if public else 'private'}")
        return
    repository = find(to, public)
    _announce(repository, public)
    with _exported(model, dataset, form) as folder:
        address = upload(repository, folder, revision, message or f"{model}, by captionlab push")
    say(f"{model} is at {address} ({repository.visibility})")


@contextmanager
def _exported(model: str, dataset: str | None, form: str) -> Iterator[Path]:
    """The folder that `captionlab export` would write; it is deleted afterwards."""
    from captionlab.export import export
    from captionlab.export.card import finished_card

    captioner = open_captioner(model, dataset)
    card = finished_card(model, captioner)
    with TemporaryDirectory(prefix="captionlab-push-") as temporary:
        folder = Path(temporary) / "model"
        export(captioner, folder, form, card)
        yield folder


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
        say(f"{repository.name} will be made, {repository.visibility}")
    elif public and repository.private:
        say(f"{repository.name} is there already and stays private, though --public is given")
    else:
        say(f"{repository.name} is there already, {repository.visibility}")
