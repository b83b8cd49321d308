"""Make the result tables from the tracking server alone.

Each run holds its row of the tables, and names the workspaces whose tables have it.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pipeline.core.errors import UserError
from pipeline.data.checked import read_checked
from pipeline.report.paper_tables import paper_sheets, read_papers
from pipeline.report.results_table import everything
from pipeline.report.table import Sheet
from pipeline.results.result import Files, Line, Result, from_json, in_order
from pipeline.tracking.current import WITHDRAWN, confirmations, moment
from pipeline.tracking.fetching import fetching
from pipeline.tracking.payload import ROWS
from pipeline.tracking.store import Store, find_runs
from pipeline.tracking.store_faults import trouble

if TYPE_CHECKING:
    from mlflow.entities import Run


class Rows(BaseModel):
    """The content of a run's file `ROWS`."""

    rows: list[Line]
    requested: list[str]


@dataclass(frozen=True)
class Published:
    """The runs of one workspace."""

    workspace: str
    "The workspace as HOST:FOLDER."
    runs: "dict[str, list[tuple[str, Run]]]"
    "Variant -> list of (time, run). The current run is first; runs of earlier states follow."

    @property
    def last(self) -> str:
        """The last time at which any of the runs was found to be current."""
        return max(known[0][0] for known in self.runs.values())

    @property
    def current(self) -> set[str]:
        """Ids of the current runs."""
        return {known[0][1].info.run_id for known in self.runs.values()}


def published(store: Store) -> list[Published]:
    """Return the runs of each workspace, starting with the workspace that published last.

    Earlier versions confirmed no runs. A workspace that never confirmed a run has the runs that it
    made, newest first.
    """
    with trouble(store.uri):
        runs = [
            run
            for run in find_runs(store, "attributes.status = 'FINISHED'")
            if run.data.tags.get("variant")
        ]
    found: dict[str, dict[str, list[tuple[str, Run]]]] = {}
    for run in runs:
        for workspace, time in confirmations(run):
            mine = found.setdefault(workspace, {})
            if time != WITHDRAWN:
                mine.setdefault(run.data.tags["variant"], []).append((time, run))
    confirmed = set(found)
    for run in runs:
        workspace, ended = (
            run.data.tags.get("workspace", "unknown"),
            run.info.end_time or run.info.start_time,
        )
        if workspace not in confirmed:
            found.setdefault(workspace, {}).setdefault(run.data.tags["variant"], []).append(
                (moment(ended), run)
            )
    ordered = {
        workspace: {
            name: sorted(known, key=lambda pair: pair[0], reverse=True)
            for name, known in mine.items()
        }
        for workspace, mine in found.items()
    }
    there = [Published(workspace, mine) for workspace, mine in ordered.items() if mine]
    return sorted(there, key=lambda p: p.last, reverse=True)


def choose(store: Store, workspace: str | None) -> tuple[Published, list[str]]:
    """Return the workspace of that name, or else the one that published last.

    Also return the names of workspaces with current runs that it does not have.

    Raises:
        UserError: no workspace has published, or none of that name.
    """
    found = published(store)
    if not found:
        raise UserError(
            f"no finished run of {store.uri} holds results: publish them with captionlab sync"
        )
    chosen = next((p for p in found if workspace in (None, p.workspace)), None)
    if not chosen:
        there = ", ".join(p.workspace for p in found)
        raise UserError(
            f"no workspace '{workspace}' (--workspace) has published to {store.uri}: there "
            f"are {there}"
        )
    return chosen, [p.workspace for p in found if p is not chosen and p.current - chosen.current]


def tables_of(store: Store, published: Published) -> list[Sheet]:
    """Return the sheets that `compare` makes in that workspace.

    Raises:
        UserError: no run of the workspace holds a row.
    """
    results: dict[str, Result] = {}
    requested: dict[str, None] = {}
    with trouble(store.uri), TemporaryDirectory() as temporary:
        for number, run in enumerate(_with_rows(store, published)):
            folder = Path(temporary, str(number))
            folder.mkdir()
            said = _said(store, run, folder, published)
            requested |= dict.fromkeys(said["requested"])
            for row in said["rows"]:
                results.setdefault(
                    row["name"], from_json(row, Files.of(folder / "scores" / row["name"]).resamples)
                )
    if not results:
        raise UserError(
            f"no run of {published.workspace} in {store.uri} holds results: publish them "
            "with captionlab sync"
        )
    rows = in_order(list(results.values()))
    return [everything(rows, list(requested)), *paper_sheets(read_papers(), rows)]


def _with_rows(store: Store, published: Published) -> "list[Run]":
    """Return the first run of each variant that holds its row, starting with the last confirmed.

    The corpus's baseline is read from the first of them.
    """
    found = []
    for known in published.runs.values():
        has = (
            pair
            for pair in known
            if any(f.path == ROWS for f in store.client.list_artifacts(pair[1].info.run_id))
        )
        found += [pair for pair in [next(has, None)] if pair]
    return [run for _, run in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _said(store: Store, run: "Run", folder: Path, published: Published) -> dict[str, Any]:
    with fetching(folder):
        for name in (ROWS, "scores"):
            store.client.download_artifacts(run.info.run_id, name, str(folder))
    cure = f"delete run {run.info.run_id}, then captionlab sync in {published.workspace}"
    return read_checked(folder / ROWS, Rows, cure)
