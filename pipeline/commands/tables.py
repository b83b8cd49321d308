"""`captionlab tables`: the result tables without the workspace that made them."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError


def command(
    from_mlflow: Annotated[bool, typer.Option("--from-mlflow", help="From the finished runs of the tracking server.")] = False,
    to: Annotated[Path, typer.Option(help="Folder that is written, in place of what was there.")] = Path("tables"),
) -> None:
    """Write the result tables (markdown, CSV, LaTeX) that MLflow's runs make up, equal to those of `dvc repro`."""
    if not from_mlflow:
        raise UserError("name --from-mlflow: the workspace's own tables are made by dvc repro, in reports/tables")
    to = to.resolve()
    if to == Path.cwd() or (to.exists() and not _replaceable(to)):
        raise UserError(f"{to} (--to) holds other things than these tables: name an empty folder or a new one")

    from pipeline.latex import write_tables
    from pipeline.tracking_store import open_store
    from pipeline.tracking_tables import tables_of

    sheets = tables_of(open_store())
    write_tables(to, sheets)
    print(f"{to}: {', '.join(sheet.name for sheet in sheets)}")


def _replaceable(folder: Path) -> bool:
    """Empty, or what an earlier call wrote: each sheet in three forms, `all` among them."""
    if not folder.is_dir():
        return False
    there = {path.name for path in folder.iterdir()}
    sheets = {name.removesuffix(".tex") for name in there if name.endswith(".tex")}
    return not there or ("all" in sheets and there == {f"{s}.{form}" for s in sheets for form in ("md", "csv", "tex")})
