"""Figures of ours beside those that a paper prints, as typed records. Of them paper_tables.py makes
the printed tables and the CSV."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pipeline.experiment.protocols import STANDARD, of_paper
from pipeline.report.results_table import ORDER, protocols_of
from pipeline.results.estimates import Estimate
from pipeline.results.result import Result
from pipeline.results.values import SPLITS, TEACHER_FORCED, Mean, Value, number

UNSCALED = {"loss", "perplexity", "params_m", "gender_ratio", "gender_images"}
"not divided by 100 where a paper prints its scores in percent"
REDUCTION = "_reduction"
"ends the name of an improvement that papers.yaml counts as a decrease"


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper's table."""

    system: str
    split: str
    protocol: str
    "A name of `protocols` in papers.yaml."
    figures: dict[str, float]
    "metric -> what the paper prints, on the scale 0-1"
    status: str = "read"
    "How papers.yaml knows the figures: read, derived or copied."
    rule: str = ""
    note: str = ""

    @property
    def ours(self) -> str:
        """The protocol of ours that equals the row's; '' where none does."""
        return of_paper(self.protocol)

    @property
    def words(self) -> str:
        return f"{self.protocol} protocol"


def paper_rows(paper: dict[str, Any]) -> list[PaperRow]:
    """The rows of a table of papers.yaml."""
    scale = paper.get("scale", 1)
    return [_paper_row(row, scale) for row in paper["rows"]]


def _paper_row(row: dict[str, Any], scale: float) -> PaperRow:
    """A key with a number is a metric."""
    figures = {
        name: float(value) if name in UNSCALED else round(value / scale, 6)
        for name, value in row.items()
        if isinstance(value, int | float)
    }
    told = {name: row[name] for name in ("status", "rule", "note") if name in row}
    protocol = row.get("protocol", "unknown")
    return PaperRow(row["system"], row.get("split", "test"), protocol, figures, **told)


def printed(rows: Iterable[PaperRow]) -> list[str]:
    """The metrics that a paper prints, in the order of our tables."""
    there = dict.fromkeys(metric for row in rows for metric in row.figures)
    return [m for m in ORDER if m in there] + [m for m in there if m not in ORDER]


@dataclass(frozen=True)
class Pair:
    """A row of a paper and a variant of ours that reproduces it."""

    row: PaperRow
    result: Result | None
    "None: no variant does."

    @property
    def label(self) -> str:
        return self.result.label if self.result else "not run"

    def fact(self, name: str) -> Value:
        """Seeds or commit of our variant."""
        return self.result.value(self.row.split, name) if self.result else "-"


def pairs(rows: list[PaperRow], ours: list[Result]) -> list[Pair]:
    """Row by row of the paper; one without a variant of ours stands alone."""
    out = []
    for row in rows:
        same = [r for r in ours if r.paper and r.paper[1] == row.system]
        out += [Pair(row, r) for r in same] or [Pair(row, None)]
    return out


@dataclass(frozen=True)
class Comparison:
    """One figure of ours, one of the paper's, or both: then under one protocol."""

    pair: Pair
    metric: str
    protocol: str
    "Ours; '' where the paper's figure has none of ours beside it."
    paper: float | None
    "None: the paper prints none under this protocol."

    @property
    def measured(self) -> bool:
        """Whether our variant has this score on any split."""
        result = self.pair.result
        return result is not None and is_measured([result], self.metric, self.protocol)

    @property
    def ours(self) -> Value:
        if self.pair.result is None:
            return "not run"
        if not self.protocol:
            return "-"
        return self.pair.result.value(self.pair.row.split, self.metric, self.protocol)

    @property
    def difference(self) -> Value:
        """Ours less the paper's, '-' without either. A paper's figure has no interval, so the
        difference has that of ours."""
        ours, paper = self.ours, self.paper
        if paper is None or ours is None or isinstance(ours, str):
            return "-"
        if isinstance(ours, float):
            return ours - paper
        if isinstance(ours, Mean):
            return replace(ours, value=ours.value - paper)
        return replace(ours, value=ours.value - paper, resamples=ours.resamples - paper)

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """Of our figure."""
        return self.ours.interval if isinstance(self.ours, Estimate) else (None, None)

    @property
    def seeds(self) -> Value:
        """How many trainings our figure is of: beside the standard protocol, one."""
        several = self.protocol in ("", STANDARD)
        return self.pair.fact("seeds") if several else "1"


def comparisons(pair: Pair, metric: str) -> list[Comparison]:
    """Ours under each protocol, with the paper's figure where the protocols are equal. A figure of
    the paper that none of ours stands beside comes last, alone."""
    paper, theirs = pair.row.figures.get(metric), pair.row.ours
    mine = (STANDARD, *protocols_of([pair.result])) if pair.result else ()
    out = [Comparison(pair, metric, p, paper if p == theirs else None) for p in mine]
    if paper is not None and not any(c.measured for c in out if c.protocol == theirs):
        out = [replace(c, paper=None) for c in out]
        out.append(Comparison(pair, metric, "", paper))
    return out


def is_measured(results: list[Result], metric: str, protocol: str) -> bool:
    """On any split, by any of them."""
    return any(metric in r.measured(split, protocol) for r in results for split in SPLITS)


@dataclass(frozen=True)
class Improvement:
    """By how many percent a paper's best system is better than another."""

    over: str
    "The other system, as the paper calls it."
    variant: str
    "The variant of ours that stands for it."
    metric: str
    "As papers.yaml names it: `bleu_4`, or `loss_reduction`."
    ours: Value
    "Recomputed from our own rows."
    paper: Value
    "As the paper prints it; '-' where it prints none."

    @property
    def protocol(self) -> str:
        """Of ours."""
        name = self.metric.removesuffix(REDUCTION)
        return "teacher-forced" if name in TEACHER_FORCED else STANDARD


def improvements(paper: dict[str, Any], ours: list[Result]) -> list[Improvement]:
    """The paper's own summary, recomputed from our rows; system by system."""
    given: dict[str, dict[str, float]] = paper.get("relative_percent", {})
    best = next((r for r in ours if r.paper and r.paper[1] == paper["rows"][0]["system"]), None)
    out = []
    for system in dict.fromkeys(system for over in given.values() for system in over):
        other = next((r for r in ours if r.paper and r.paper[1].split(" (")[0] == system), None)
        variant = other.label if other else "not run"
        out += [
            Improvement(system, variant, m, _percent(m, best, other), over.get(system, "-"))
            for m, over in given.items()
        ]
    return out


def _percent(metric: str, best: Result | None, other: Result | None) -> Value:
    name = metric.removesuffix(REDUCTION)
    mine, theirs = (number(r.value("test", name)) if r else None for r in (best, other))
    if mine is None or theirs is None:
        return "not run"
    if not theirs:
        return "n/a"
    share = mine / theirs - 1
    return round(-100 * share if metric.endswith(REDUCTION) else 100 * share, 2)
