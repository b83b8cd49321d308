"""`captionlab tables`: write result tables without the workspace that made them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import UserError, say


def command(
    from_mlflow: Annotated[
        bool, typer.Option("--from-mlflow", help="From the finished runs of the tracking server.")
    ] = False,
    to: Annotated[
        Path, typer.Option(help="Folder that is written, in place of what was there.")
    ] = Path("tables"),
    workspace: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:FOLDER",
            help="Workspace, by its tag `workspace`. Default: the one that published last.",
        ),
    ] = None,
) -> None:
    """Write the result tables (markdown, CSV, LaTeX) from MLflow's runs, equal to those of `dvc
    repro`.

    They are the tables of one workspace, as its stage `track` or `captionlab sync` last found it.
    """
    if not from_mlflow:
        raise UserError(
            "name --from-mlflow: the workspace's own tables are made by dvc repro, in "
            "reports/tables"
        )
    to = to.resolve()
    if to == Path.cwd() or (to.exists() and not _replaceable(to)):
        raise UserError(
            f"{to} (--to) holds other things than these tables: name an empty folder or a new one"
        )

    from captionlab.mlflow_tables import choose, tables_of
    from pipeline.report.latex import write_tables
    from pipeline.tracking.store import open_store

    store = open_store()
    published, others = choose(store, workspace)
    sheets = tables_of(store, published)
    write_tables(to, sheets)
    if others:
        told = f"tables of {published.workspace}, which was published at {published.last}"
        say(f"{told}; --workspace names another: {', '.join(others)}", file=sys.stderr)
    say(f"{to}: {', '.join(sheet.name for sheet in sheets)}")


def _replaceable(folder: Path) -> bool:
    """Return whether a folder is empty, or holds only what an earlier call wrote.

    That is each sheet in three forms, `all` among them.
    """
    if not folder.is_dir():
        return False
    there = {path.name for path in folder.iterdir()}
    sheets = {name.removesuffix(".tex") for name in there if name.endswith(".tex")}
    return not there or (
        "all" in sheets
        and there == {f"{s}.{form}" for s in sheets for form in ("md", "csv", "tex")}
    )
