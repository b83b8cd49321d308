"""`captionlab results`: print the result table, and where the rest is."""

from typing import Annotated

import typer

from captionlab.headline import headline
from captionlab.here import not_in_table
from captionlab.terminal import show
from captionlab.tidy import workspace_of
from pipeline.core import paths
from pipeline.core.errors import say


def command(
    every: Annotated[
        bool,
        typer.Option("--all", help="Print all tables, with all columns and how to read them."),
    ] = False,
) -> None:
    """Print the result table, and where the other tables, the page and the runs are."""
    from pipeline.tracking.store_address import tracking_uri
    from pipeline.tracking.store_faults import without_password

    workspace_of(".")
    table, page, uri = (
        paths.TABLES / "all.md",
        paths.REPORTS / "index.html",
        without_password(tracking_uri()),
    )
    if table.is_file():
        text = table.read_text(encoding="utf-8").rstrip()
        if every:
            show(text)
        else:
            _show_first(text)
        if missing := not_in_table():
            say(f"\nnot in this table: {', '.join(missing)} (scored; dvc repro adds them)")
    else:
        say(f"no table yet ({table}): run dvc repro")
    if page.is_file():
        say(f"\npage:   {page.resolve()}")
    say(f"MLflow: {uri}" if uri.startswith("http") else "MLflow: captionlab ui")


def _show_first(text: str) -> None:
    """Print the first table of a page, and what of the page is not shown."""
    first = headline(text)
    show(first.text)
    if "**" in first.text or "±" in first.text:
        say("\nBold: the best, or not significantly worse. ±: half the 95% interval.")
    if first.left_out:
        say(f"Columns that are not shown: {', '.join(first.left_out)}.")
    if first.left_out or first.tables > 1:
        many = f"All {first.tables} tables" if first.tables > 1 else "The whole table"
        say(f"{many}: captionlab results --all, or {paths.TABLES / 'all.md'}")
