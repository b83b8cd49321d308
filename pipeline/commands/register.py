"""`captionlab register`: the best variant becomes the champion."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import layout

if TYPE_CHECKING:
    from pipeline.tracking_registry import Choice


def command(
    metric: Annotated[str, typer.Option(help="Compared on the validation split, never on test.")] = "cider",
    dataset: Annotated[str | None, typer.Option(help="Needed when there are runs of several.")] = None,
) -> None:
    """Register the variant with the best validation score in MLflow as `champion`."""
    from pipeline.files import read_json
    from pipeline.tracking_registry import register as register_best
    from pipeline.tracking_store import open_store

    current = {path.stem: read_json(path)["fingerprint"] for path in layout.RUNS.glob("*.json")}
    _print_choice(register_best(open_store(), dataset, metric, current))


def _print_choice(choice: "Choice") -> None:
    best = choice.ranking[0]
    print(f"{'variant':<24} {'val.' + choice.metric:>12} {'test.' + choice.metric:>14}  corpus")
    for row in choice.ranking:
        print(f"{row.variant:<24} {_number(row.val):>12} {_number(row.test):>14}  {row.corpus}")
    corpora = sorted({row.corpus for row in choice.ranking})
    if len(corpora) > 1:
        print(f"note: corpora {', '.join(corpora)} may differ in their validation images: such scores compare with care")
    state = "registered" if choice.is_new else "was registered already"
    print(f"{choice.model} version {choice.version} ({best.variant}) {state} and has the alias champion:", end=" ")
    print(f"val.{choice.metric} {_number(best.val)} is the best of {len(choice.ranking)}")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
