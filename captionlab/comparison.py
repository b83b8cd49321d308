"""Two systems on the same images: the difference of every score, and how sure it is.

The paired bootstrap over images (Koehn, 2004): both systems are scored on the same resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.errors import UserError
from pipeline.results.estimates import LEVEL, RESAMPLES, Estimate, p_value
from pipeline.results.values import COUNTS

if TYPE_CHECKING:
    import pandas as pd

    from captionlab.evaluation import Evaluation


class Difference(NamedTuple):
    """Of one score."""

    metric: str
    this: float
    other: float
    difference: float
    "this - other"
    low: float | None
    "Lower end of the difference's 95 % interval; None where the score has no interval."
    high: float | None
    p: float | None
    """Two-sided: twice the share of resamples in which the difference is gone or turned. Not
    corrected for the number of scores."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """The differences between two systems; printed, it is a table."""

    images: int
    differences: list[Difference]

    def to_frame(self) -> "pd.DataFrame":
        """Columns metric, this, other, difference, low, high, p; NaN where there is no interval."""
        import pandas as pd

        table = pd.DataFrame(self.differences, columns=list(Difference._fields))
        return table.astype(dict.fromkeys(Difference._fields[1:], float))

    def __repr__(self) -> str:
        width = max([6, *(len(row.metric) for row in self.differences)])
        head = f"{'metric':<{width}} {'this':>8} {'other':>8} {'difference':>10}"
        interval = f"{LEVEL:.0%} interval"
        lines = [f"{head}  {interval:<19} {'p':>6}"]
        lines += [_line(row, width) for row in self.differences]
        about = f"{self.images} images; paired bootstrap over images, {RESAMPLES} resamples"
        return "\n".join([*lines, "", f"{about}; p is two-sided and not corrected"])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, na_rep="n/a", float_format="{:.4f}".format)


def _line(row: Difference, width: int) -> str:
    form = ".0f" if row.metric in COUNTS else ".4f"
    values = f"{row.this:>8{form}} {row.other:>8{form}} {row.difference:>+10{form}}"
    if row.low is None or row.high is None or row.p is None:
        return f"{row.metric:<{width}} {values}  {'n/a':<19} {'n/a':>6}"
    p = f"{row.p:.3f}" if row.p else f"< {2 / RESAMPLES:g}"
    return f"{row.metric:<{width}} {values}  {f'{row.low:+.4f} - {row.high:+.4f}':<19} {p:>6}"


def compare(this: "Evaluation", other: "Evaluation") -> Comparison:
    """Every score that both systems have.

    Raises:
        UserError: they were scored on other images or references, or by another protocol.
    """
    if this.content != other.content:
        raise UserError(
            f"the two systems cannot be paired ({this.images} images, protocol {this.protocol}; "
            f"{other.images} images, protocol {other.protocol}): evaluate both on the same "
            "references by the same protocol"
        )
    return Comparison(this.images, list(_differences(this, other)))


def _differences(this: "Evaluation", other: "Evaluation") -> Iterator[Difference]:
    for name in [name for name in this.scores if name in other.scores]:
        values = this.scores[name], other.scores[name]
        low = high = p = None
        if name in this.resamples and name in other.resamples:
            pair = [
                Estimate(of.scores[name], of.resamples[name], of.content) for of in (this, other)
            ]
            p = p_value(*pair)
            if difference := pair[0].less(pair[1]):
                low, high = difference.interval
        yield Difference(name, *values, values[0] - values[1], low, high, p)
