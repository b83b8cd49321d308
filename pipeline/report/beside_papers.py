"""Our figures beside those that a paper prints, as typed records. paper_tables.py turns them into
printed tables and a CSV."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pipeline.experiment.protocols import STANDARD, of_paper
from pipeline.report.metric_groups import ORDER, protocols_of
from pipeline.results.estimates import Estimate
from pipeline.results.result import Result
from pipeline.results.values import SPLITS, TEACHER_FORCED, Mean, Value, number

# Figures that are not divided by 100 if a paper prints its scores in percent.
UNSCALED = {"loss", "perplexity", "params_m", "gender_ratio", "gender_images"}
# Suffix of an improvement's name if papers.yaml counts it as a decrease.
REDUCTION = "_reduction"


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper's table."""

    system: str
    split: str
    protocol: str
    "Name of a protocol in `protocols` of papers.yaml."
    figures: dict[str, float]
    "Metric -> figure that the paper prints, on the scale 0-1 except for the metrics in `UNSCALED`."
    status: str = "read"
    "Origin of the figures: read, derived or copied, as papers.yaml defines them."
    rule: str = ""
    note: str = ""

    @property
    def ours(self) -> str:
        """Our protocol that equals the row's, or '' if none does."""
        return of_paper(self.protocol)

    @property
    def words(self) -> str:
        return f"{self.protocol} protocol"


def paper_rows(paper: dict[str, Any]) -> list[PaperRow]:
    """Return the rows of a table in papers.yaml."""
    scale = paper.get("scale", 1)
    return [_paper_row(row, scale) for row in paper["rows"]]


def _paper_row(row: dict[str, Any], scale: float) -> PaperRow:
    """Return a typed row. Every key with a number is a metric."""
    figures = {
        name: float(value) if name in UNSCALED else round(value / scale, 6)
        for name, value in row.items()
        if isinstance(value, int | float)
    }
    told = {name: row[name] for name in ("status", "rule", "note") if name in row}
    protocol = row.get("protocol", "unknown")
    return PaperRow(row["system"], row.get("split", "test"), protocol, figures, **told)


def printed(rows: Iterable[PaperRow]) -> list[str]:
    """Return the metrics that a paper prints, in the order of our tables."""
    there = dict.fromkeys(metric for row in rows for metric in row.figures)
    return [m for m in ORDER if m in there] + [m for m in there if m not in ORDER]


@dataclass(frozen=True)
class Pair:
    """A row of a paper and a variant of ours that reproduces it."""

    row: PaperRow
    result: Result | None
    "Result of the variant. None if no variant reproduces the row."

    @property
    def label(self) -> str:
        return self.result.label if self.result else "not run"

    def fact(self, name: str) -> Value:
        """Return the seeds or the commit of our variant."""
        return self.result.value(self.row.split, name) if self.result else "-"


def pairs(rows: list[PaperRow], ours: list[Result]) -> list[Pair]:
    """Pair the paper's rows with our variants, row by row. A row without a variant gets None."""
    out = []
    for row in rows:
        same = [r for r in ours if r.paper and r.paper[1] == row.system]
        out += [Pair(row, r) for r in same] or [Pair(row, None)]
    return out


@dataclass(frozen=True)
class Comparison:
    """Our figure, the paper's figure, or both under one protocol."""

    pair: Pair
    metric: str
    protocol: str
    "Our protocol. '' if the paper's figure has no figure of ours beside it."
    paper: float | None
    "The paper's figure. None if it prints none under this protocol."

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
        """Our figure minus the paper's, or '-' if either is missing. A paper's figure has no
        interval, so the difference has the width of our interval."""
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
        """Interval of our figure."""
        return self.ours.interval if isinstance(self.ours, Estimate) else (None, None)

    @property
    def seeds(self) -> Value:
        """Number of trainings behind our figure: always one under protocols other than the
        standard one."""
        several = self.protocol in ("", STANDARD)
        return self.pair.fact("seeds") if several else "1"


def comparisons(pair: Pair, metric: str) -> list[Comparison]:
    """Return our figure under each protocol, with the paper's figure if the protocols are equal.
    If no figure of ours matches the paper's, the paper's comes last, alone."""
    paper, theirs = pair.row.figures.get(metric), pair.row.ours
    mine = (STANDARD, *protocols_of([pair.result])) if pair.result else ()
    out = [Comparison(pair, metric, p, paper if p == theirs else None) for p in mine]
    if paper is not None and not any(c.measured for c in out if c.protocol == theirs):
        out = [replace(c, paper=None) for c in out]
        out.append(Comparison(pair, metric, "", paper))
    return out


def is_measured(results: list[Result], metric: str, protocol: str) -> bool:
    """Return whether any of the results has the metric on any split."""
    return any(metric in r.measured(split, protocol) for r in results for split in SPLITS)


@dataclass(frozen=True)
class Improvement:
    """The improvement of a paper's best system over another one, in percent."""

    over: str
    "The other system, as the paper calls it."
    variant: str
    "Our variant that stands for the other system."
    metric: str
    "Name in papers.yaml, such as `bleu_4` or `loss_reduction`."
    ours: Value
    "Improvement in percent, recomputed from our own rows."
    paper: Value
    "Improvement in percent that the paper prints. '-' if it prints none."

    @property
    def protocol(self) -> str:
        """Protocol of our figures."""
        name = self.metric.removesuffix(REDUCTION)
        return "teacher-forced" if name in TEACHER_FORCED else STANDARD


def improvements(paper: dict[str, Any], ours: list[Result]) -> list[Improvement]:
    """Recompute the paper's own summary of improvements from our rows, system by system."""
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
