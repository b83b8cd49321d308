"""Charts of scores: bars with intervals, and scores against costs. The same scores are also given
as a table for `dvc plots`."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.report.learning_curves import COLOURS, INK, inline
from pipeline.results.estimates import Estimate
from pipeline.results.result import Result
from pipeline.results.values import SPLITS, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = ("bleu_4", "meteor", "rouge_l", "cider")
COLUMNS = ["variant", "split", "metric", "value", "low", "high", "corpus", "decoding"]
# Colour of the baseline, visible on white and on black.
GREY = "#8a929b"
# Shapes of marks, by kind.
SHAPES = "os^Dv"
# Width and height in points that the number of a mark takes.
SIDE = 13.0
# Places of a number relative to its mark in the first ring, in multiples of `SIDE`.
STEPS = (
    (0.0, 0.8),
    (0.0, -0.8),
    (0.9, 0.0),
    (-0.9, 0.0),
    (0.7, 0.6),
    (-0.7, 0.6),
    (0.7, -0.6),
    (-0.7, -0.6),
)
# Ticks of a logarithmic axis, as multiples of a power of ten. The first set that gives three ticks
# is used.
TICKS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
# Number of rings of places that are tried. Each ring is `SIDE` further out.
REACH = 8


def score_table(results: list[Result]) -> pd.DataFrame:
    """Return a table with `COLUMNS` and one row per system, split and metric of `BARS`. Only rows
    of one corpus and one decoding are comparable.

    `low` and `high` are the 95 % interval and are empty if there is none. `decoding` is empty for a
    baseline.
    """
    rows = [
        (r.name, split, metric, figure, *_interval(r, split, metric), r.setting.corpus, r.decoding)
        for r in results
        for split in SPLITS
        for metric in BARS
        if (figure := number(r.value(split, metric))) is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _interval(result: Result, split: str, metric: str) -> tuple[float | None, float | None]:
    value = result.value(split, metric)
    return value.interval if isinstance(value, Estimate) else (None, None)


@dataclass(frozen=True)
class Bars:
    """Bars of comparable systems: those of one corpus and one decoding."""

    title: str
    panels: dict[str, str]
    "Metric -> SVG element."


def score_bars(results: list[Result]) -> list[Bars]:
    """Return bars of test scores, one group per corpus and decoding. Each group includes the
    baseline of its corpus."""
    scored = [r for r in results if r.scores is not None]
    groups = dict.fromkeys((r.setting.corpus, r.decoding) for r in scored if r.decoding)
    out = []
    for n, (corpus, decoding) in enumerate(groups):
        rows = [r for r in scored if r.setting.corpus == corpus and r.decoding in (decoding, "")]
        table = score_table(rows)
        there = set(table.loc[table["split"] == "test", "metric"])
        panels = {
            m: inline(partial(_bars, table, m, rows), f"bars{n}-{m}") for m in BARS if m in there
        }
        out.append(Bars(f"{corpus}: {decoding}", panels))
    return out


def _bars(table: pd.DataFrame, metric: str, results: list[Result]) -> "Figure":
    """Draw the bars of one metric, with the first system on top."""
    from matplotlib.figure import Figure

    figures = table[(table["split"] == "test") & (table["metric"] == metric)].set_index("variant")
    rows = [r for r in results if r.name in figures.index]
    figure = Figure(figsize=(3.6, 0.45 + 0.21 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, r in enumerate(rows):
        row = figures.loc[r.name]
        axes.barh(place, row["value"], height=0.62, color=COLOURS[0] if r.decoding else GREY)
        if pd.notna(row["low"]):
            axes.plot(
                [row["low"], row["high"]],
                [place, place],
                color=INK,
                linewidth=1.3,
                marker="|",
                markersize=5,
            )
    axes.set_yticks(range(len(rows)), [r.label for r in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, figures["low"].min() if figures["low"].notna().any() else 0.0))
    axes.grid(alpha=0.15, color=INK, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@dataclass(frozen=True)
class Mark:
    """A variant in a chart."""

    number: int
    "Number beside the mark, which the key repeats before the variant's name."
    x: float
    y: float
    kind: int = 0
    "Marks of one kind share a colour and a shape."


def scatter(marks: list[Mark], x: str, y: str, prefix: str) -> str:
    """Return a chart of scores against a cost as an SVG element. The horizontal axis, the cost, is
    logarithmic unless its range is narrow. `places` keeps the numbers from overlapping."""
    return inline(partial(_scatter, marks, x, y), prefix)


def _scatter(marks: list[Mark], x: str, y: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0, 3.0))
    axes = figure.add_axes((0.17, 0.16, 0.81, 0.82))
    for kind in sorted({m.kind for m in marks}):
        alike, shape = [m for m in marks if m.kind == kind], SHAPES[kind % len(SHAPES)]
        colour = COLOURS[kind % len(COLOURS)]
        axes.plot(
            [m.x for m in alike],
            [m.y for m in alike],
            linestyle="none",
            marker=shape,
            markersize=5,
            color=colour,
        )
    axes.set_xscale("log")
    axes.margins(0.1, 0.12)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.15, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    _plain_ticks(axes)
    _number(axes, marks)
    return figure


def _number(axes: "Axes", marks: list[Mark]) -> None:
    """Write the number of each mark. A line connects the two if the number is far away."""
    pixel = 72 / axes.figure.dpi
    x0, y0, x1, y1 = (pixel * side for side in axes.get_window_extent().extents)
    points = [tuple(pixel * axes.transData.transform((m.x, m.y))) for m in marks]
    line: dict[str, Any] = {
        "arrowstyle": "-",
        "color": INK,
        "alpha": 0.35,
        "linewidth": 0.7,
        "shrinkA": 5,
        "shrinkB": 2,
    }
    for m, (x, y), (to_x, to_y) in zip(
        marks, points, places(points, (x0, y0, x1, y1)), strict=True
    ):
        by, arrow = (
            (to_x - x, to_y - y),
            line if abs(to_x - x) + abs(to_y - y) > 1.2 * SIDE else None,
        )
        axes.annotate(
            str(m.number),
            (m.x, m.y),
            by,
            textcoords="offset points",
            ha="center",
            va="center",
            arrowprops=arrow,
        )


def _plain_ticks(axes: "Axes") -> None:
    """Set ticks with plain numbers (20, not 2 x 10^1), as coarse as possible with three of them in
    view. A narrow range gets a linear axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_xlim()
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    if high / low < 3:
        axes.set_xscale("linear")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    else:
        locators = [LogLocator(subs=steps, numticks=99) for steps in TICKS]
        shown = [
            sum(low <= tick <= high for tick in locator.tick_values(low, high))
            for locator in locators
        ]
        enough = [locator for locator, count in zip(locators, shown, strict=True) if count >= 3]
        axes.xaxis.set_major_locator([*enough, locators[-1]][0])
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(plain)


Point = tuple[float, float]


def places(points: list[Point], inside: tuple[float, float, float, float]) -> list[Point]:
    """Return a place for the number of each point: as near as possible, within the axes, and clear
    of all marks and other numbers.

    If there is no such place, the number goes where it covers least.

    Args:
        points: positions of the marks, in typographic points.
        inside: left, bottom, right and top of the axes.
    """
    taken: list[Point] = []
    for x, y in points:
        candidates = [
            (x + SIDE * ring * dx, y + SIDE * ring * dy)
            for ring in range(1, REACH + 1)
            for dx, dy in STEPS
        ]
        within = [c for c in candidates if _within(c, inside)] or candidates[:1]
        taken.append(min(within, key=lambda place: _covered(place, points, taken)))
    return taken


def _within(place: Point, inside: tuple[float, float, float, float]) -> bool:
    half = SIDE / 2
    return (
        inside[0] + half <= place[0] <= inside[2] - half
        and inside[1] + half <= place[1] <= inside[3] - half
    )


def _covered(place: Point, marks: list[Point], numbers: list[Point]) -> int:
    """Return how much a number at this place would cover: 1 per mark (disc) and 2 per number
    (square)."""
    discs = sum(abs(place[0] - x) < SIDE * 0.6 and abs(place[1] - y) < SIDE * 0.6 for x, y in marks)
    return discs + 2 * sum(
        abs(place[0] - x) < SIDE and abs(place[1] - y) < SIDE * 0.7 for x, y in numbers
    )
