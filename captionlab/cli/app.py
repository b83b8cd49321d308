"""`captionlab app`: the page to try models on."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from captionlab.address import check_address
from captionlab.models import load, open_folder, variants
from pipeline.core import paths
from pipeline.core.errors import UserError, one_line, say

EXAMPLES = 8
SHOWN_BY_BROWSERS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def command(
    host: Annotated[
        str,
        typer.Option(help="127.0.0.1 allows this machine only; 0.0.0.0 everyone who can reach it."),
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset whose champion to use, if several have one. Default: that of params.yaml."
        ),
    ] = None,
) -> None:
    """Serve a page on which the champion and the models of this workspace caption your pictures."""
    from captionlab.page.answers import Shelf
    from captionlab.page.server import serving

    check_address(host, port)
    with ExitStack() as stack:
        folders = stack.enter_context(model_folders(dataset))
        if not folders:
            raise UserError(
                "no trained model in models/, and no champion: run dvc repro (or make repro) first"
            )
        scratch = stack.enter_context(TemporaryDirectory(prefix="captionlab-examples-"))
        examples = example_images(Path(scratch))
        address = stack.enter_context(serving(Shelf(folders, load), examples, host, port))
        if host not in LOOPBACK:
            print(f"warning: everybody who can reach {host} can use this page", file=sys.stderr)
        print(f"{address} (Ctrl-C ends it)", flush=True)
        _wait()


def _wait() -> None:
    """Wait for Ctrl-C or SIGTERM, and return, so that both delete the uploads."""
    ended = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        ended.wait()
    except KeyboardInterrupt:
        print(file=sys.stderr)


@contextmanager
def model_folders(dataset: str | None) -> Iterator[dict[str, Path]]:
    """Yield name -> folder: the champion, if there is one, then every model of this workspace."""
    found = {
        name: paths.MODELS / name
        for name in variants()
        if (paths.MODELS / name / "model.safetensors").is_file()
    }
    from captionlab.champion import shown_name

    with ExitStack() as stack:
        champion: dict[str, Path] = {}
        try:
            if _has_registry():
                folder = stack.enter_context(open_folder("champion", dataset))
                champion = {shown_name(folder): folder}
        except UserError as error:
            say(f"no champion: {one_line(error)}", file=sys.stderr)
        yield champion | found


def _has_registry() -> bool:
    """Return whether there is a registry. A look-up would create a missing default database."""
    from pipeline.tracking.store_address import DEFAULT_URI, tracking_uri

    uri = tracking_uri()
    return uri != DEFAULT_URI or Path(uri.removeprefix("sqlite:///")).is_file()


def example_images(folder: Path) -> list[Path]:
    """Write a few test images of every corpus to `folder`, spread evenly over the corpus.

    Images that are larger than an upload may be are left out.
    """
    from captionlab.page.server import UPLOAD
    from pipeline.data.corpus import read_captions
    from pipeline.data.shards import Shards, write_picture
    from pipeline.experiment.params import load_params

    params = load_params()
    corpora = {
        name: paths.CORPORA / name / "captions.parquet"
        for name in params.corpora
        if (paths.CORPORA / name / "captions.parquet").is_file()
    }
    out: list[Path] = []
    for name, captions in corpora.items():
        rows = read_captions(captions, ["image_id", "split"])
        images = sorted(rows.image_id[rows.split == "test"].unique())
        there = [
            member
            for member in Shards(paths.RAW / params.corpora[name].dataset).find(images).values()
            if Path(member.file).suffix in SHOWN_BY_BROWSERS and member.size <= UPLOAD
        ]
        wanted = max(1, EXAMPLES // len(corpora))
        chosen = there[:: max(1, len(there) // wanted)][:wanted]
        out += [write_picture(member, folder / name) for member in chosen]
    return out
