"""`captionlab sync`: publish what MLflow does not hold yet."""

from typing import Annotated

import typer

from pipeline.core import paths
from pipeline.core.errors import UserError, one_line, say


def command(
    to: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Another server or database than MLFLOW_TRACKING_URI."),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="Print only what changed or failed; an unreachable server is a warning."
        ),
    ] = False,
) -> None:
    """Publish to MLflow every finished variant of this workspace that it does not hold yet.

    The others are confirmed as what this workspace holds. captionlab tables --from-mlflow relies on
    that.
    """
    from pipeline.tracking.live import warn
    from pipeline.tracking.store_faults import StoreBroken, StoreDown

    try:
        _publish_all(to, quiet)
    except StoreDown as down:
        if not quiet:
            raise
        later = "" if isinstance(down, StoreBroken) else f", {down.later}"
        warn(f"{down}: nothing is lost{later}")


def _publish_all(to: str | None, quiet: bool) -> None:
    from pipeline.experiment.params import load_params
    from pipeline.tracking.current import withdraw_others
    from pipeline.tracking.payload import gather
    from pipeline.tracking.publish import publish
    from pipeline.tracking.store import open_store
    from pipeline.tracking.store_address import absolute, tracking_uri
    from pipeline.tracking.store_faults import StoreDown

    params = load_params()
    store = open_store(to, create=True)
    is_own = store.uri == absolute(tracking_uri())
    waiting = [path.stem for path in sorted(paths.RUNS.glob("*.pending"))]
    for name in dict.fromkeys([*params.variants, *waiting]):
        try:
            is_new = publish(store, gather(name, params, paths))
            if is_own:
                (paths.RUNS / f"{name}.pending").unlink(missing_ok=True)
            state = "published" if is_new else "was published already"
        except StoreDown:
            raise
        except UserError as error:
            is_new, state = True, f"left out: {one_line(error)}"
        if is_new or not quiet:
            say(f"{name}: {state}")
    withdraw_others(store, params)
