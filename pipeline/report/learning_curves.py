"""Charts as reproducible SVG, and the learning curves: as a file for readers and DVC, and as panels
for the page."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.data.checked import need_columns
from pipeline.data.files import whole_folder
from pipeline.results.history import read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Variant -> table of data/history/<variant>.csv.
Curves = dict[str, pd.DataFrame]
PANELS = {
    "val_cider": "CIDEr of greedy validation captions",
    "val_bleu_4": "BLEU-4 of greedy validation captions",
    "val_loss": "Validation loss, nats per token (faint: training loss)",
}
# Colours that are visible on white and on black.
COLOURS = ["#3b82c4", "#e07b39", "#2fa37a", "#c2549d", "#a3871c", "#8b6fd0", "#d1495b", "#5b8f9b"]
DASHES = ["solid", "dashed", "dotted", "dashdot"]
# Colour of axes and text. On the page, the reader's text colour replaces it.
INK = "#27282a"


def read_curves(files: Mapping[str, Path]) -> Curves:
    """Return the existing histories by variant. A variant that was not trained has no curve.

    Raises:
        UserError: see `read_history`; also if a column that a panel needs is missing.
    """
    found: Curves = {}
    for name, path in files.items():
        if rows := read_history(path) if path.is_file() else []:
            found[name] = pd.DataFrame(rows).astype({"epoch": int, "step": int})
            need_columns([*found[name]], ["epoch", "best", "train_loss", *PANELS], path)
    return found


def styles(curves: Curves) -> dict[str, tuple[str, str]]:
    """Return variant -> (colour, dash). The first 32 variants have different styles."""
    n = len(COLOURS)
    return {name: (COLOURS[i % n], DASHES[i // n % len(DASHES)]) for i, name in enumerate(curves)}


def write_figures(folder: Path, curves: Curves, scores: pd.DataFrame) -> None:
    """Write learning_curves.svg, learning_curves.csv and scores.csv. learning_curves.csv holds all
    histories as one table with a column `variant`."""
    table = (
        pd.concat([history.assign(variant=name) for name, history in curves.items()])
        if curves
        else pd.DataFrame()
    )
    columns = ["variant", *(c for c in table if c != "variant")]
    with whole_folder(folder) as part:
        (part / "learning_curves.svg").write_text(
            svg(lambda: _draw(curves, list(PANELS), legend=True)), encoding="utf-8"
        )
        table.reindex(columns=columns).to_csv(
            part / "learning_curves.csv", index=False, lineterminator="\n"
        )
        scores.to_csv(part / "scores.csv", index=False, lineterminator="\n")


def _draw(curves: Curves, columns: list[str], legend: bool = False) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(4.6 * len(columns), 3.4) if legend else (3.8, 2.8), layout="constrained"
    )
    for axes, column in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True
    ):
        _panel(axes, curves, column)
        if legend:
            axes.set_title(PANELS[column], fontsize=10)
    if legend and curves:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(len(names), 6) or 1, frameon=False
        )
    return figure


def _panel(axes: "Axes", curves: Curves, column: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, (colour, dash) in styles(curves).items():
        history = curves[name]
        axes.plot(
            history["epoch"],
            history[column],
            color=colour,
            linestyle=dash,
            linewidth=1.8,
            label=name,
        )
        best = history[history["best"] == 1].tail(1)
        axes.plot(
            best["epoch"], best[column], color=colour, marker="o", markersize=5, linestyle="none"
        )
        if column == "val_loss":
            axes.plot(
                history["epoch"],
                history["train_loss"],
                color=colour,
                linestyle=dash,
                linewidth=1.2,
                alpha=0.4,
            )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.15, color=INK)
    axes.spines[["top", "right"]].set_visible(False)


def svg(draw: "Callable[[], Figure]") -> str:
    """Draw a figure as SVG with the same bytes every time. It has no date and no random ids,
    ignores any matplotlibrc, and stores text as outlines."""
    out = io.StringIO()
    with _fixed_style():
        draw().savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return out.getvalue()


@contextmanager
def _fixed_style() -> Iterator[None]:
    import matplotlib

    inked = [
        "text.color",
        "axes.edgecolor",
        "axes.labelcolor",
        "axes.titlecolor",
        "xtick.color",
        "ytick.color",
    ]
    fixed = {
        "svg.hashsalt": "captionlab",
        "svg.fonttype": "path",
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
    }
    settings: Any = {**dict.fromkeys(inked, INK), **fixed}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def panels(curves: Curves) -> dict[str, str]:
    """Return title -> SVG element to embed in the page. The page prints the titles as text; the
    pictures do not contain them."""
    if not curves:
        return {}
    return {
        title: inline(partial(_draw, curves, [column]), column) for column, title in PANELS.items()
    }


def inline(draw: "Callable[[], Figure]", prefix: str) -> str:
    """Draw an SVG to embed in the page. It fills the available width and uses the reader's text
    colour. `prefix` makes its ids unique."""
    text = svg(draw)
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    )
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text).strip()
