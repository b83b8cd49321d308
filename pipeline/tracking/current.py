"""Which finished runs a workspace holds now; those of its earlier states, and of other workspaces,
are finished as well.

A run has a tag `current.<workspace>` with the time at which the stage `track` or `captionlab sync`
last found it to be that of the workspace's files. Several workspaces may hold the same run. Nothing
else of a published run changes by it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.data.files import fingerprint
from pipeline.experiment.params import Params
from pipeline.tracking.store import Store, find_runs, trouble
from pipeline.tracking.tags import tags

if TYPE_CHECKING:
    from mlflow.entities import Run

PREFIX = "current."
WITHDRAWN = "withdrawn"
"""stands for the time where the workspace has the variant no more, or was a temporary copy of an
experiment"""


def tag_of(workspace: str) -> str:
    """Args: workspace: HOST:FOLDER, as the tag `workspace` has it."""
    return f"{PREFIX}{fingerprint(workspace)}"


def moment(milliseconds: float) -> str:
    """Since 1970, in UTC; later ones sort behind earlier ones."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def confirm(store: Store, run_id: str, workspace: str) -> None:
    now = moment(datetime.now(UTC).timestamp() * 1000)
    store.client.set_tag(run_id, tag_of(workspace), f"{now} {workspace}")


def withdraw(store: Store, run_id: str, workspace: str) -> None:
    store.client.set_tag(run_id, tag_of(workspace), f"{WITHDRAWN} {workspace}")


def withdraw_others(store: Store, params: Params) -> None:
    """Of variants that params.yaml has no more, this workspace holds no run."""
    if not params.variants:
        return
    workspace = tags(next(iter(params.variants)), params)["workspace"]
    said = f"{WITHDRAWN} {workspace}"
    with trouble(store.uri):
        for run in find_runs(store, f"tags.`{tag_of(workspace)}` != '{said}'"):
            if run.data.tags.get("variant") not in params.variants:
                withdraw(store, run.info.run_id, workspace)


def confirmations(run: "Run") -> Iterator[tuple[str, str]]:
    """(workspace, time or WITHDRAWN)."""
    for name, value in run.data.tags.items():
        if name.startswith(PREFIX):
            time, _, workspace = value.partition(" ")
            yield workspace, time


def inherit(store: Store, kept: "Run", dropped: "Run") -> None:
    """Who confirmed a run that goes holds the same one that stays."""
    for name, value in dropped.data.tags.items():
        if name.startswith(PREFIX) and name not in kept.data.tags:
            store.client.set_tag(kept.info.run_id, name, value)
