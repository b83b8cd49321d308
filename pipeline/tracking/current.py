"""Tags that say which finished runs match a workspace's current files. Runs of its earlier states
and runs of other workspaces are finished, too, so their status does not tell.

The tag `current.<workspace>` holds the time at which the stage `track` or `captionlab sync` last
found that the run matches the workspace's files. Several workspaces may hold the same run. The tag
changes nothing else of a published run.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.data.files import fingerprint
from pipeline.experiment.params import Params
from pipeline.tracking.store import Store, find_runs
from pipeline.tracking.store_faults import trouble
from pipeline.tracking.tags import tags

if TYPE_CHECKING:
    from mlflow.entities import Run

PREFIX = "current."
# Replaces the time in the tag if the workspace no longer has the variant, or if it was a temporary
# copy of an experiment.
WITHDRAWN = "withdrawn"


def tag_of(workspace: str) -> str:
    """Return the name of a workspace's tag.

    Args:
        workspace: HOST:FOLDER, the value of the tag `workspace`.
    """
    return f"{PREFIX}{fingerprint(workspace)}"


def moment(milliseconds: float) -> str:
    """Return a time as UTC text that sorts in order of time.

    Args:
        milliseconds: since 1970.
    """
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def confirm(store: Store, run_id: str, workspace: str) -> None:
    now = moment(datetime.now(UTC).timestamp() * 1000)
    store.client.set_tag(run_id, tag_of(workspace), f"{now} {workspace}")


def withdraw(store: Store, run_id: str, workspace: str) -> None:
    store.client.set_tag(run_id, tag_of(workspace), f"{WITHDRAWN} {workspace}")


def withdraw_others(store: Store, params: Params) -> None:
    """Withdraw this workspace's tags from runs whose variant is no longer in params.yaml."""
    if not params.variants:
        return
    workspace = tags(next(iter(params.variants)), params)["workspace"]
    said = f"{WITHDRAWN} {workspace}"
    with trouble(store.uri):
        for run in find_runs(store, f"tags.`{tag_of(workspace)}` != '{said}'"):
            if run.data.tags.get("variant") not in params.variants:
                withdraw(store, run.info.run_id, workspace)


def confirmations(run: "Run") -> Iterator[tuple[str, str]]:
    """Yield (workspace, time or WITHDRAWN) for each workspace that has tagged the run."""
    for name, value in run.data.tags.items():
        if name.startswith(PREFIX):
            time, _, workspace = value.partition(" ")
            yield workspace, time


def inherit(store: Store, kept: "Run", dropped: "Run") -> None:
    """Copy the workspace tags that `kept` lacks from `dropped`, an equal run that is deleted."""
    for name, value in dropped.data.tags.items():
        if name.startswith(PREFIX) and name not in kept.data.tags:
            store.client.set_tag(kept.info.run_id, name, value)
