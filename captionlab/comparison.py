"""Compare two systems on the same images: the difference of every score, and its uncertainty.

The method is the paired bootstrap over images (Koehn, 2004): both systems are scored on the same
resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.results.estimates import LEVEL, RESAMPLES, Estimate, p_value
from pipeline.results.values import COUNTS, LOWER_IS_BETTER, NO_DIRECTION

if TYPE_CHECKING:
    import pandas as pd

    from captionlab.evaluation import Evaluation


class Difference(NamedTuple):
    """The difference between two systems in one score."""

    metric: str
    this: float
    other: float
    difference: float
    "`this` minus `other`."
    low: float | None
    "Lower end of the difference's 95 % interval; None if the score has no interval."
    high: float | None
    p: float | None
    """Two-sided p-value: twice the share of resamples in which the difference vanishes or changes
    sign. It is not corrected for the number of scores."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """The differences between two systems. It prints as a table."""

    images: int
    differences: list[Difference]
    per_image: "pd.DataFrame"
    """One row per image. Every score that single images have takes three columns beside image_id:
    `<score>_this`, `<score>_other`, and their difference `<score>`. NaN marks an image without
    that score."""

    def _names(self) -> list[str]:
        """Return the scores that single images have."""
        columns = [str(name) for name in self.per_image]
        return [name for name in columns if f"{name}_this" in columns]

    def winners(self) -> "pd.DataFrame":
        """Count the images on which each system has the better score.

        The columns are metric, this, other and equal. Scores without a better direction are left
        out.
        """
        import pandas as pd

        rows = []
        for name in self._names():
            if name in NO_DIRECTION:
                continue
            better = self.per_image[name].dropna() * (-1 if name in LOWER_IS_BETTER else 1)
            counts = [int(found.sum()) for found in (better > 0, better < 0, better == 0)]
            rows.append((name, *counts))
        return pd.DataFrame(rows, columns=["metric", "this", "other", "equal"])

    def winner(self, metric: str) -> "pd.Series":
        """Return `this`, `other` or `equal` for each image of `per_image`; '' without a score."""
        better = self.per_image[metric] * (-1 if metric in LOWER_IS_BETTER else 1)
        sides = {1.0: "this", -1.0: "other", 0.0: "equal"}
        return better.transform(np.sign).map(sides).fillna("")

    def differ_most(self, metric: str, count: int) -> list[str]:
        """Return the image_ids with the largest differences in a score, ties in order of image_id.

        Images on which both systems have the same score are left out.

        Raises:
            UserError: single images have no such score.
        """
        known = self._names()
        if metric not in known:
            near = nearest(metric, known)
            raise UserError(f"images have no score '{metric}'{near}: they have {', '.join(known)}")
        gaps = self.per_image.set_index("image_id")[metric].abs().dropna().sort_index()
        gaps = gaps[gaps > 0].sort_values(ascending=False, kind="stable")
        return [str(image) for image in gaps.index[:count]]

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per score: metric, this, other, difference, low, high and p.

        NaN marks a score without an interval.
        """
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
    """Compare two systems in every score that both have.

    Raises:
        UserError: they were scored on different images or references, or by different protocols.
    """
    if this.content != other.content:
        raise UserError(
            f"the two systems cannot be paired ({this.images} images, protocol {this.protocol}; "
            f"{other.images} images, protocol {other.protocol}): evaluate both on the same "
            "references by the same protocol"
        )
    return Comparison(this.images, list(_differences(this, other)), _by_image(this, other))


def _by_image(this: "Evaluation", other: "Evaluation") -> "pd.DataFrame":
    one, two = (each.per_image.set_index("image_id") for each in (this, other))
    out = {}
    for name in [str(name) for name in one if name in two]:
        out[f"{name}_this"], out[f"{name}_other"] = one[name], two[name]
        out[name] = one[name] - two[name]
    import pandas as pd

    return pd.DataFrame(out, index=one.index).reset_index()


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
