"""The result tables from the tracking server alone: each run holds its line of them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.papers import paper_sheets, read_papers
from pipeline.results import Result, from_json, in_order
from pipeline.sheets import Sheet
from pipeline.tables import everything
from pipeline.tracking_payload import ROWS
from pipeline.tracking_store import Store, find_runs, trouble

if TYPE_CHECKING:
    from mlflow.entities import Run


def tables_of(store: Store) -> list[Sheet]:
    """The sheets that `compare` makes of the same variants: of each, its newest finished run that holds a line.

    Raises:
        UserError: no run holds one.
    """
    results: dict[str, Result] = {}
    requested: dict[str, None] = {}
    with trouble(store.uri), TemporaryDirectory() as temporary:
        for number, run in enumerate(_newest(store)):
            folder = Path(temporary, str(number))
            folder.mkdir()
            said = _said(store, run, folder)
            requested |= dict.fromkeys(said["requested"])
            for row in said["rows"]:
                results.setdefault(row["name"], from_json(row, folder / "resamples" / f"{row['name']}.parquet"))
    if not results:
        raise UserError(f"no finished run of {store.uri} holds results: publish them with captionlab sync")
    rows = in_order(list(results.values()))
    return [everything(rows, list(requested)), *paper_sheets(read_papers(), rows)]


def _newest(store: Store) -> "list[Run]":
    """A finished run of each variant that has its line, the newest, by name."""
    runs = sorted(find_runs(store, "attributes.status = 'FINISHED'"), key=lambda run: -run.info.start_time)
    newest: dict[str, Run] = {}
    for run in runs:
        variant = run.data.tags.get("variant", "")
        if (
            variant
            and variant not in newest
            and any(file.path == ROWS for file in store.client.list_artifacts(run.info.run_id))
        ):
            newest[variant] = run
    return [newest[name] for name in sorted(newest)]


def _said(store: Store, run: "Run", folder: Path) -> dict[str, Any]:
    for name in (ROWS, "resamples"):
        store.client.download_artifacts(run.info.run_id, name, str(folder))
    said: dict[str, Any] = read_json(folder / ROWS)
    return said
