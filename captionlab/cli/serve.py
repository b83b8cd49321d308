"""`captionlab serve`: serve a model over HTTP."""

from contextlib import suppress
from typing import Annotated

import typer


def command(
    model: Annotated[
        str, typer.Argument(help="champion, an address of MLflow, or a folder with MLmodel.")
    ] = "champion",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset whose champion to use, if several have one. Default: that of params.yaml."
        ),
    ] = None,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5001,
    max_mb: Annotated[
        int, typer.Option(min=1, help="Largest body of a request, in megabytes.")
    ] = 32,
) -> None:
    """Answer POST /invocations as `mlflow models serve` does, but with a size limit and short
    errors."""
    from captionlab.champion import champion_uri
    from captionlab.door import MEGABYTE
    from captionlab.models import check_dataset
    from captionlab.server import serve
    from pipeline.tracking.store import open_store
    from pipeline.tracking.store_address import tracking_uri

    check_dataset(model, dataset)
    address = champion_uri(open_store(), dataset) if model == "champion" else model
    with suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
        serve(address, tracking_uri(), host, port, max_mb * MEGABYTE)
