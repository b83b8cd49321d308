"""`captionlab results`: print the result table, and where the rest is."""

from captionlab.here import not_in_table
from captionlab.terminal import show
from captionlab.tidy import workspace_of
from pipeline.core import paths
from pipeline.core.errors import say


def command() -> None:
    """Print the result table, and where the page and the runs are."""
    from pipeline.tracking.store_address import tracking_uri
    from pipeline.tracking.store_faults import without_password

    workspace_of(".")
    table, page, uri = (
        paths.TABLES / "all.md",
        paths.REPORTS / "index.html",
        without_password(tracking_uri()),
    )
    if table.is_file():
        show(table.read_text(encoding="utf-8").rstrip())
        if missing := not_in_table():
            say(f"\nnot in this table: {', '.join(missing)} (scored; dvc repro adds them)")
    else:
        say(f"no table yet ({table}): run dvc repro")
    if page.is_file():
        say(f"\npage:   {page.resolve()}")
    say(f"MLflow: {uri}" if uri.startswith("http") else "MLflow: captionlab ui")
