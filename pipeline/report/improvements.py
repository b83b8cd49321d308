"""Relative improvements as a paper prints them, recomputed from our own rows."""

from typing import Any

from pipeline.experiment.protocols import STANDARD
from pipeline.report.results_table import TEACHER_FORCED
from pipeline.report.table import Column, Table
from pipeline.results.result import Result
from pipeline.results.values import Value, number


def improvements(paper: dict[str, Any], ours: list[Result]) -> list[Table]:
    """The paper's own summary, recomputed from our rows: by how many percent its best system is
    better than each other.

    Of a loss: by how many percent it is lower.
    """
    printed: dict[str, dict[str, float]] = paper.get("relative_percent", {})
    if not printed:
        return []
    best = next((r for r in ours if r.paper and r.paper[1] == paper["rows"][0]["system"]), None)
    systems = list(dict.fromkeys(system for over in printed.values() for system in over))
    columns = []
    for metric in printed:
        mine = "teacher-forced" if metric.removesuffix("_reduction") in TEACHER_FORCED else STANDARD
        columns += [
            Column(f"{metric}, %", mine),
            Column(f"{metric}, %", "unknown protocol", paper=True),
        ]
    rows: list[tuple[list[str], list[Value]]] = []
    for system in systems:
        other = next((r for r in ours if r.paper and r.paper[1].split(" (")[0] == system), None)
        cells = [
            v
            for metric, over in printed.items()
            for v in (_improvement(metric, best, other), over.get(system, "-"))
        ]
        rows.append(([f"over {system}", other.label if other else "not run"], cells))
    title = f"Improvement of {paper['rows'][0]['system']}, in percent"
    about = (
        "100 (its score / the other's - 1); loss_reduction: 100 (1 - its loss / the other's). "
        "Ours: from the test rows above."
    )
    return [
        Table(
            title,
            about,
            "test",
            {},
            ["improvement", "variant"],
            columns,
            rows,
            unjudged=frozenset(range(len(rows))),
        )
    ]


def _improvement(metric: str, best: Result | None, other: Result | None) -> Value:
    name = metric.removesuffix("_reduction")
    mine, theirs = (number(r.value("test", name)) if r else None for r in (best, other))
    if mine is None or theirs is None:
        return "not run"
    if not theirs:
        return "n/a"
    share = mine / theirs - 1
    return round(-100 * share if metric.endswith("_reduction") else 100 * share, 2)
