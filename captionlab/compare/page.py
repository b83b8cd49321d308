"""Write a page about two systems: their differences, and the images where they differ most."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from captionlab.compare.sides import Pair
from captionlab.comparison import Comparison, Difference
from pipeline.core.errors import UserError
from pipeline.data.files import whole_file
from pipeline.report.gallery import thumbnail
from pipeline.report.page import tongue
from pipeline.results.estimates import ALPHA, RESAMPLES
from pipeline.results.values import COUNTS, LOWER_IS_BETTER, NO_DIRECTION

if TYPE_CHECKING:
    from pipeline.data.shards import Member


@dataclass(frozen=True)
class Row:
    """A score, as text for the page."""

    metric: str
    values: tuple[str, str]
    difference: str
    interval: str
    p: str
    better: int | None
    "Index (0 or 1) of the system whose score is significantly better, or None."


@dataclass(frozen=True)
class Shot:
    """An image with both captions."""

    image_id: str
    picture: str
    "Data URI; '' if its file is not known or is no picture."
    texts: tuple[str, str]
    scores: tuple[float, float]
    better: int | None
    references: list[str]


def write_comparison(path: Path, pair: Pair, found: Comparison, metric: str, count: int) -> None:
    """Write one self-contained page.

    Args:
        metric: the score by which images differ.
        count: maximum number of images that are shown.

    Raises:
        UserError: single images have no score of that name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    import pipeline.report

    folders = [Path(__file__).parent, Path(pipeline.report.__path__[0])]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    how = pair.scored[0].how
    page = environment.get_template("page.html").render(
        names=pair.names,
        about=f"{found.images} images; protocol {how.name}: {how.about}; {RESAMPLES} resamples.",
        differences=[_row(difference) for difference in found.differences],
        wins=found.winners().to_dict("records"),
        metric=metric,
        shots=list(_shots(pair, found, metric, count)),
        alpha=ALPHA,
        tongue=tongue(pair.scored[0].language),
    )
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")


def _row(of: Difference) -> Row:
    form = ".0f" if of.metric in COUNTS else ".4f"
    values = f"{of.this:{form}}", f"{of.other:{form}}"
    difference = f"{of.difference:+{form}}"
    if of.low is None or of.high is None or of.p is None:
        return Row(of.metric, values, difference, "n/a", "n/a", None)
    told = f"{of.p:.3f}" if of.p else f"< {2 / RESAMPLES:g}"
    better = _better(of.metric, of.difference) if of.p < ALPHA else None
    return Row(of.metric, values, difference, f"{of.low:+.4f} to {of.high:+.4f}", told, better)


def _better(metric: str, difference: float) -> int | None:
    """Return the index of the better system; None if both are equal, or no direction is better."""
    if metric in NO_DIRECTION or difference == 0:
        return None
    return int((difference > 0) == (metric in LOWER_IS_BETTER))


def _shots(pair: Pair, found: Comparison, metric: str, count: int) -> Iterator[Shot]:
    table = found.per_image.set_index("image_id")
    for image in found.differ_most(metric, count):
        scores = float(table[f"{metric}_this"][image]), float(table[f"{metric}_other"][image])
        yield Shot(
            image,
            _picture(pair.pictures.get(image)),
            (pair.texts[0][image], pair.texts[1][image]),
            scores,
            _better(metric, scores[0] - scores[1]),
            list(pair.references[image]),
        )


def _picture(found: "Path | Member | None") -> str:
    try:
        source = found if isinstance(found, Path) else found and found.read()
        return thumbnail(source)[0] if source else ""
    except UserError:
        return ""
