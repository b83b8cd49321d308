"""The cost of each variant: the parameters of its decoder, and the speed that `captionlab speed`
measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import RootModel

from pipeline.core.errors import UserError, brief, check_access
from pipeline.data.checked import RESTORE, read_checked
from pipeline.report.charts import Mark, scatter
from pipeline.report.table import Column, Table
from pipeline.results.result import Result
from pipeline.results.values import Value, number

# Number of images captioned together, as a key of reports/speed.json -> in words.
BATCHES = {"1": "one by one", "64": "64 at once"}


@dataclass(frozen=True)
class Speed:
    """A variant's entry of reports/speed.json."""

    captions_per_second: dict[str, float]
    "Speed of the decoder from stored features, by the keys of `BATCHES`."
    images_per_second: float
    "Speed of the encoder from decoded pictures."
    decoding: str
    "Text from `decoding_text`."
    machine: str
    commit: str | None


def read_speeds(file: Path) -> dict[str, Speed]:
    """Return variant -> measured speed. It is empty if nothing was measured.

    Raises:
        UserError: the file is not what `captionlab speed` writes.
    """
    if not file.is_file():
        return {}
    try:
        told = read_checked(file, RootModel[dict[str, Speed]])
        return {name: Speed(**entry) for name, entry in told.items()}
    except (UserError, TypeError):
        raise UserError(
            f"{file} is not what captionlab speed writes: put {{}} into it and measure again"
        ) from None


def parameters(weights: Path) -> int | None:
    """Return how many numbers a .safetensors file holds, or None if the file is missing. Only the
    header is read.

    Raises:
        UserError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not weights.is_file():
        return None
    check_access(weights)
    try:
        with safe_open(weights, framework="numpy") as file:
            shapes: list[list[int]] = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights} cannot be read as weights: {brief(error)}: {RESTORE}") from None
    return sum(math.prod(shape) for shape in shapes)


@dataclass(frozen=True)
class Cost:
    """One variant in the charts and the table of its corpus."""

    number: int
    "Number of the variant in the charts of its corpus."
    kind: int
    "Number of its decoding in the charts of its corpus."
    result: Result
    parameters: int | None
    speed: Speed | None
    "None if it was not measured, or was measured under a decoding that the variant no longer has."

    @property
    def millions(self) -> float | None:
        return None if self.parameters is None else self.parameters / 1e6

    def per_second(self, batch: str) -> float | None:
        return self.speed.captions_per_second.get(batch) if self.speed else None


@dataclass(frozen=True)
class Costs:
    """The variants of one corpus: charts by title, and the table that is the key to their
    numbers."""

    charts: dict[str, str]
    table: Table
    measured: bool
    "Whether any speed is known."


def costs(
    results: list[Result], sizes: dict[str, int | None], speeds: dict[str, Speed]
) -> list[Costs]:
    """Return one group per corpus. Its variants are numbered in the order of `results`.

    Args:
        sizes: variant -> number of parameters.
        speeds: variant -> measured speed.
    """
    out = []
    for n, corpus in enumerate(dict.fromkeys(r.setting.corpus for r in results)):
        variants = [r for r in results if r.setting.corpus == corpus and r.decoding]
        kinds = list(dict.fromkeys(r.decoding for r in variants))
        known = [
            Cost(k, kinds.index(r.decoding), r, sizes.get(r.name), _current(r, speeds.get(r.name)))
            for k, r in enumerate(variants, 1)
        ]
        if known:
            old = [
                r.label for r in variants if r.name in speeds and not _current(r, speeds[r.name])
            ]
            out.append(
                Costs(
                    _charts(known, f"costs{n}"),
                    _table(corpus, known, old),
                    any(c.speed for c in known),
                )
            )
    return out


def _current(result: Result, speed: Speed | None) -> Speed | None:
    return speed if speed and speed.decoding == result.decoding else None


def _charts(known: list[Cost], prefix: str) -> dict[str, str]:
    """Return charts of test CIDEr by number of parameters, and by speed for each machine. If
    decodings differ, the titles say so."""
    found = {
        "parameters of the decoder": _chart(
            known, [c.millions for c in known], "parameters, millions", f"{prefix}-size"
        )
    }
    machines = sorted({c.speed.machine for c in known if c.speed})
    for n, machine in enumerate(machines):
        there = [c for c in known if c.speed and c.speed.machine == machine]
        for batch, words in BATCHES.items():
            rates, title = [c.per_second(batch) for c in there], f"speed, {words}"
            title += f" ({machine})" if len(machines) > 1 else ""
            found[title] = _chart(there, rates, "captions per second", f"{prefix}-speed{n}-{batch}")
    told = (
        "; a colour and shape for each decoding"
        if len({c.result.decoding for c in known}) > 1
        else ""
    )
    return {f"Test CIDEr by {title}{told}": chart for title, chart in found.items() if chart}


def _chart(known: list[Cost], paid: Sequence[float | None], x: str, prefix: str) -> str:
    """Return the chart, or '' if no variant has both a cost and a score."""
    scores = [number(c.result.value("test", "cider")) for c in known]
    marks = [
        Mark(c.number, cost, score, c.kind)
        for c, cost, score in zip(known, paid, scores, strict=True)
        if cost and score is not None
    ]
    return scatter(marks, x, "CIDEr", prefix) if marks else ""


def _table(corpus: str, known: list[Cost], old: list[str]) -> Table:
    """Return the table of one corpus. Facts that all rows share are above it.

    All figures but the score are strings, because a measured figure is not printed with four
    decimals.
    """
    facts = {
        "decoding": [c.result.decoding for c in known],
        "measured on": [_measured(c.speed) for c in known],
    }
    shared = {name: texts[0] for name, texts in facts.items() if len(set(texts)) == 1}
    keys = ["number", "variant", *(name for name in facts if name not in shared)]
    columns = [
        "cider",
        "parameters, millions",
        *(f"captions/s, {words}" for words in BATCHES.values()),
        "images/s of the encoder",
    ]
    rows = [
        (
            [str(c.number), c.result.label, *(facts[name][n] for name in keys[2:])],
            [c.result.value("test", "cider"), *_cells(c)],
        )
        for n, c in enumerate(known)
    ]
    told = "".join(
        f" {name.capitalize()}: {text}." for name, text in shared.items() if text != "n/a"
    )
    about = (
        f"{known[0].result.setting.about('test')}.{told} Parameters: all numbers in "
        "model.safetensors, frozen ones too."
    )
    warnings = (
        [f"the speed of {', '.join(old)} was measured under another decoding and is left out"]
        if old
        else []
    )
    return Table(
        f"{corpus}: score, size and speed",
        about,
        "test",
        {},
        keys,
        list(map(Column, columns)),
        rows,
        warnings,
    )


def _measured(speed: Speed | None) -> str:
    return f"{speed.machine}, commit {speed.commit or 'unknown'}" if speed else "n/a"


def _cells(cost: Cost) -> list[Value]:
    millions = None if cost.millions is None else f"{cost.millions:.2f}"
    rates = [
        *(cost.per_second(batch) for batch in BATCHES),
        cost.speed.images_per_second if cost.speed else None,
    ]
    return [millions, *(None if rate is None else f"{rate:.10g}" for rate in rates)]
