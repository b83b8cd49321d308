"""Tables, and how a figure is printed."""

from dataclasses import dataclass, field, replace

from pipeline.results.estimates import Estimate
from pipeline.results.values import (
    COUNTS,
    CSV_ONLY,
    NO_DIRECTION,
    OF_ROWS,
    SEEN,
    Mean,
    Value,
)


@dataclass(frozen=True)
class Column:
    metric: str
    protocol: str = ""
    "Protocol of the column. '' if one protocol applies to the whole table."
    paper: bool = False
    "Whether the figures are a paper's."
    difference: bool = False
    "Whether it is a difference: of two protocols, or ours minus a paper's under one protocol."

    @property
    def is_judged(self) -> bool:
        """Whether high or low is better, so that the column has a best figure."""
        return self.metric not in NO_DIRECTION and not self.difference

    @property
    def kind(self) -> str:
        """Second line of the header, below a metric that several columns share. '' if one protocol
        applies to the whole table."""
        if self.difference or not self.protocol:
            return self.protocol
        return f"{'paper' if self.paper else 'ours'}, {self.protocol}"

    @property
    def header(self) -> str:
        return self.named("")

    def named(self, suffix: str) -> str:
        """Return the header of a column that belongs to this one, such as `bleu_4_low`."""
        name = f"paper {self.metric}{suffix}" if self.paper else f"{self.metric}{suffix}"
        return f"{name} ({self.protocol})" if self.protocol else name

    def text(self, value: Value) -> str:
        """Return a figure as text. Ours has four decimals, or fewer if its interval is wide. A
        paper's has fewer if the paper printed fewer."""
        if value is None or isinstance(value, str):
            return value or "n/a"
        if isinstance(value, Mean):
            return self._with_spread(value)
        if isinstance(value, Estimate):
            text = _with_interval(value)
            return text if value.value < 0 or not self.difference else f"+{text}"
        if self.difference:
            return f"{value:+.4f}"
        if self.metric in COUNTS:
            return f"{value:.0f}"
        text = f"{value:.4f}"
        return (
            text[:-4] + text[-4:].rstrip("0").ljust(3 if value < 1 else 2, "0")
            if self.paper
            else text
        )

    def _with_spread(self, mean: Mean) -> str:
        """Return text such as `0.8030 s.0040`, or `364.5 s6.4` for counts."""
        if self.metric in COUNTS:
            return f"{mean.value:{'+' if self.difference else ''}.1f} s{mean.sd:.1f}"
        return f"{self.text(mean.value)} {_sd(mean.sd, 4)}"


def _with_interval(estimate: Estimate) -> str:
    """Return text such as `0.803 ±.017`, or `0.803 ±.017 s.004` for several trainings. `±` gives
    half the interval's width, usually with two significant digits."""
    low, high = estimate.interval
    half = (high - low) / 2
    digits = 3 if half >= 0.00995 else 4
    spread = "" if estimate.sd is None else f" {_sd(estimate.sd, digits)}"
    return f"{estimate.value:.{digits}f} ±{_short(half, digits)}{spread}"


def _sd(sd: float, digits: int) -> str:
    """Return text such as `s.0040`."""
    return f"s{_short(sd, digits)}"


def _short(value: float, digits: int) -> str:
    """Return text such as `.0040`, without the zero before the point."""
    return f"{value:.{digits}f}".removeprefix("0")


@dataclass(frozen=True)
class Table:
    """The figures of one split."""

    title: str
    about: str
    split: str
    group: dict[str, str]
    "Values that all rows share. They are columns of the CSV only."
    keys: list[str]
    columns: list[Column]
    rows: list[tuple[list[str], list[Value]]]
    warnings: list[str] = field(default_factory=list)
    "Lines directly below the table."
    hidden: frozenset[str] = frozenset(CSV_ONLY)
    "Metrics that only the CSV has."
    unjudged: frozenset[int] = frozenset()
    """Rows that are never marked as best, such as a baseline: its one caption for all images may
    score well by never repeating a word."""
    tokens: str = ""
    """Tokenizer of the scores. '' means PTB. The CSV has separate columns for each tokenizer, so
    that scores of two tokenizers never share one."""

    def texts(self) -> list[tuple[list[str], list[str]]]:
        """Return the rows as printed: names and figures."""
        return [
            (names, [c.text(v) for c, v in zip(self.columns, values, strict=True)])
            for names, values in self.rows
        ]

    def for_people(self) -> "Table":
        """Return the table without what only the CSV has. A fact that all rows share moves to the
        line above the table."""
        shared = {
            c.metric: self._shared(i) for i, c in enumerate(self.columns) if c.metric in OF_ROWS
        }
        said = "".join(f" {name.capitalize()}: {text}." for name, text in shared.items() if text)
        keep = [
            i
            for i, c in enumerate(self.columns)
            if c.metric not in self.hidden and shared.get(c.metric) is None
        ]
        rows = [(names, [values[i] for i in keep]) for names, values in self.rows]
        return replace(
            self, about=self.about + said, columns=[self.columns[i] for i in keep], rows=rows
        )

    def _shared(self, column: int) -> str | None:
        """Return the value that all rows with a value share.

        Returns:
            '' if no row has a value, and None if the values differ.
        """
        nothing = {"", "n/a", "not run", "None"}
        if self.columns[column].metric != SEEN:  # there, '-' is a row that nothing is known of
            nothing.add("-")
        said = {str(values[column]) for _, values in self.rows} - nothing
        return "".join(said) if len(said) < 2 else None


@dataclass(frozen=True)
class Sheet:
    """Tables that belong together: reports/tables/<name>.md, .csv and .tex."""

    name: str
    title: str
    tables: list[Table]
    legend: list[str]
    notes: list[str]
    quoting: list[str] = field(default_factory=list)
    "What LaTeX needs to quote captions of these corpora."
    records: list[dict[str, Value]] = field(default_factory=list)
    "Lines of the CSV, if they do not come from the columns of the tables."
