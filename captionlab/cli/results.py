"""`captionlab results`: the table, and where the rest is."""

from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import UserError


def command() -> None:
    """Print the result table, and where the page and the runs are."""
    from pipeline.tracking.store import tracking_uri, without_password

    if not Path("params.yaml").is_file():
        raise UserError(
            "this folder is no workspace (it has no params.yaml): go to the one that dvc "
            "repro ran in"
        )
    table, page, uri = (
        paths.TABLES / "all.md",
        paths.REPORTS / "index.html",
        without_password(tracking_uri()),
    )
    print(
        table.read_text(encoding="utf-8").rstrip()
        if table.is_file()
        else f"no table yet ({table}): run dvc repro"
    )
    if page.is_file():
        print(f"\npage:   {page.resolve()}")
    print(
        f"MLflow: {uri}"
        if uri.startswith("http")
        else f"MLflow: mlflow ui --backend-store-uri {uri}"
    )
