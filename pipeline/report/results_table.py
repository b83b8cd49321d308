"""The table of all scores. Every number names its protocol: split, references, tokenisation and
decoding."""

from pipeline.experiment.protocols import STANDARD, find_protocol
from pipeline.languages.languages import ENGLISH, find_language
from pipeline.report import seen
from pipeline.report.legends import (
    clip_legend,
    interval_legend,
    language_legend,
    metric_legend,
    protocol_legend,
    quoting,
    unavailable,
    variant_notes,
)
from pipeline.report.metric_groups import COLLAPSED, KINDS, ORDER, metric_names, protocols_of
from pipeline.report.table import Column, Sheet, Table
from pipeline.results.estimates import Estimate
from pipeline.results.result import Result
from pipeline.results.values import FACTS, SEEN, SPLITS, Value, number


def everything(results: list[Result], requested: list[str]) -> Sheet:
    """Return the sheet of all results, with a row per variant and one for the baseline.

    Each table has one corpus, one decoding and one kind of metric. Test comes before validation.

    Args:
        requested: scoring.metrics of the params. A metric that could not run keeps its column, in
            which every cell is n/a.
    """
    groups, tables = _groups(results), []
    kinds = {
        kind: [Column(m) for m in metric_names(results, tuple(requested), kind)] for kind in KINDS
    }
    kinds[""] += [Column(fact) for fact in FACTS]
    for corpus, decoding in groups:
        rows = [r for r in results if r.setting.corpus == corpus and r.decoding in (decoding, "")]
        alone = [name for name, _ in groups].count(corpus) == 1
        name = corpus if alone else f"{corpus}, {decoding}"
        group = {"corpus": corpus, "decoding": decoding}
        first = kinds[""] + seen.columns(rows)
        tables += [_group(name, "", rows, split, group, first) for split in SPLITS]
        tables += _by_protocol(name, rows, group)
        more = [kind for kind in KINDS if kind and kinds[kind]]
        tables += [
            _group(name, kind, rows, split, group, kinds[kind]) for kind in more for split in SPLITS
        ]
    shown = [column for columns in kinds.values() for column in columns]
    legend = (
        metric_legend(shown)
        + language_legend(results)
        + clip_legend(results)
        + protocol_legend(results)
        + interval_legend(results, shown)
        + seen.legend(results)
    )
    return Sheet(
        "all",
        "Results",
        tables,
        legend,
        unavailable(results, shown) + variant_notes(results),
        quoting(results),
    )


def _group(
    name: str,
    kind: str,
    rows: list[Result],
    split: str,
    group: dict[str, str],
    columns: list[Column],
) -> Table:
    title = ", ".join(filter(None, [name, SPLITS[split], kind]))
    about = f"{rows[0].setting.about(split)}; captions: {group['decoding'] or 'no model'}."
    cells: list[tuple[list[str], list[Value]]] = [
        ([r.label], [_cell(r, split, c.metric) for c in columns]) for r in rows
    ]
    warnings = (
        [w for r in rows for w in collapsed(r, split)]
        if "collapse" in [c.metric for c in columns]
        else []
    )
    return Table(
        title,
        about,
        split,
        group,
        ["variant"],
        columns,
        cells,
        warnings,
        unjudged=_baselines(rows),
        tokens=tokens_of(rows),
    )


def _cell(row: Result, split: str, metric: str) -> Value:
    return seen.seen(row) if metric == SEEN else row.value(split, metric)


def tokens_of(rows: list[Result]) -> str:
    """Return `Table.tokens` for rows of one corpus."""
    language = rows[0].setting.language
    return "" if language == ENGLISH else find_language(language).tokenizer


def _baselines(rows: list[Result]) -> frozenset[int]:
    return frozenset(n for n, r in enumerate(rows) if not r.decoding)


def _by_protocol(name: str, rows: list[Result], group: dict[str, str]) -> list[Table]:
    """Return one table per further protocol, for the test split only. Validation figures are not
    reported; they are in data/scores."""
    scored = {
        protocol: [r for r in rows if r.measured("test", protocol)]
        for protocol in protocols_of(rows)
    }
    return [
        _beside(name, protocol, those, "test", group) for protocol, those in scored.items() if those
    ]


def _beside(
    name: str, protocol: str, rows: list[Result], split: str, group: dict[str, str]
) -> Table:
    """Return a table with three columns per metric: the score under the standard protocol, the
    score under the other, and their difference. Both scores are of the same model."""
    there = {m for r in rows for m in r.measured(split, protocol)}
    metrics = [m for m in ORDER if m in there]
    difference = f"{protocol} - {STANDARD}"
    columns = [
        column
        for m in metrics
        for column in (
            Column(m, STANDARD),
            Column(m, protocol),
            Column(m, difference, difference=True),
        )
    ]
    cells: list[tuple[list[str], list[Value]]] = []
    for r in rows:
        pairs = [(r.own(split, m), r.value(split, m, protocol)) for m in metrics]
        cells.append(
            ([r.label], [v for own, other in pairs for v in (own, other, minus(other, own))])
        )
    title = ", ".join([name, SPLITS[split], f"protocol {protocol}"])
    captions = group["decoding"] or "no model"
    about = (
        f"{rows[0].setting.about(split)}; captions: {captions}; {protocol}: "
        f"{find_protocol(protocol).of(rows[0].setting.language).about}."
    )
    hidden = frozenset({"bleu_2", "bleu_3", "rouge_l"} if "cider" in metrics else ())
    return Table(
        title,
        about,
        split,
        group,
        ["variant"],
        columns,
        cells,
        hidden=hidden,
        unjudged=_baselines(rows),
        tokens=tokens_of(rows),
    )


def minus(one: Value, other: Value) -> Value:
    """Return the difference. It has an interval if both values have one on the same images."""
    if isinstance(one, Estimate) and isinstance(other, Estimate) and (paired := one.less(other)):
        return paired
    a, b = number(one), number(other)
    return a - b if a is not None and b is not None else "-"


def collapsed(result: Result, split: str) -> list[str]:
    """Return a warning if a model gives the same caption to more than a share `COLLAPSED` of the
    images. The baseline does so by design and is not warned about."""
    share, images = number(result.value(split, "collapse")), result.setting.images.get(split, 0)
    if not result.decoding or share is None or share <= COLLAPSED or round(share * images) < 2:
        return []
    return [f"{result.label} gives the same caption for {round(share * images)} of {images} images"]


def _groups(results: list[Result]) -> list[tuple[str, str]]:
    """Return (corpus, decoding) of the variants. A corpus that has only its baseline has decoding
    ''."""
    decoded = dict.fromkeys((r.setting.corpus, r.decoding) for r in results if r.decoding)
    bare = {
        r.setting.corpus: None
        for r in results
        if r.setting.corpus not in {corpus for corpus, _ in decoded}
    }
    return [*decoded, *((corpus, "") for corpus in bare)]
