"""`captionlab register`: make the best variant the champion."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.core import paths
from pipeline.core.errors import UserError, say

if TYPE_CHECKING:
    from captionlab.champion import Choice
    from captionlab.ranking import Candidate


def command(
    metric: Annotated[
        str | None,
        typer.Option(
            help="Score of the validation split that decides (never of test). Default: cider."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset, if MLflow holds runs of several. Default: that of params.yaml."
        ),
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Choose among runs scored as this variant's was.")
    ] = None,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback", help="Swap champion and previous champion; a second call undoes it."
        ),
    ] = False,
) -> None:
    """Register the variant with the best validation score in MLflow as `champion`. The champion
    before it is kept as `previous`."""
    if rollback and (metric or like):
        raise UserError(
            "--rollback goes back to the version before: it takes no --metric and no --like"
        )

    from captionlab.champion import published_here
    from captionlab.champion import register as register_best
    from captionlab.here import not_published
    from pipeline.tracking.store import open_store

    if rollback:
        _roll_back(dataset)
        return
    current = published_here(paths.RECEIPTS)
    _print_choice(register_best(open_store(), dataset, metric or "cider", current, like))
    if missing := not_published():
        say(f"not compared: {', '.join(missing)} (scored, but not in MLflow; dvc repro logs them)")


def _roll_back(dataset: str | None) -> None:
    from captionlab.champion import roll_back
    from pipeline.tracking.store import open_store

    done = roll_back(open_store(), dataset)
    say(
        f"{done.model}: version {done.champion} ({done.variant}) is champion again, "
        f"version {done.previous} is previous now;"
    )
    say(
        "captionlab register --rollback once more undoes this, captionlab register chooses "
        "by score again"
    )


def _print_choice(choice: "Choice") -> None:
    say(
        f"{'variant':<24} {'val/' + choice.metric:>12} {'p':>7} "
        f"{'test/' + choice.metric:>14}  corpus"
    )
    for row in choice.ranking:
        say(
            f"{row.variant:<24} {_number(row.val):>12} {_p(row, choice):>7} "
            f"{_number(row.test):>14}  {row.corpus}"
        )
    if choice.left_out:
        say(
            "not compared (another protocol or other references; see --like): "
            f"{', '.join(choice.left_out)}"
        )
    state = "registered" if choice.is_new else "was registered already"
    kept = f"; version {choice.before} is kept as previous" if choice.before else ""
    say(
        f"{choice.model} version {choice.version} ({choice.ranking[0].variant}) {state} "
        f"and has the alias champion{kept}"
    )
    say(choice.lead)


def _p(row: "Candidate", choice: "Choice") -> str:
    if row is choice.ranking[0]:
        return "best"
    return "n/a" if row.p is None else f"{row.p:.3f}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
