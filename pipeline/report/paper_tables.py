"""Ours beside a paper's: one sheet per table of papers.yaml that a variant names."""

from dataclasses import replace
from typing import Any

import yaml

from pipeline.experiment.params import PAPERS
from pipeline.experiment.protocols import STANDARD, find_protocol, of_paper
from pipeline.report.improvements import improvements
from pipeline.report.results_table import (
    GENDER,
    ORDER,
    TEACHER_FORCED,
    clip_legend,
    interval_legend,
    measured,
    metric_names,
    protocols_of,
    unavailable,
    variant_notes,
)
from pipeline.report.table import Column, Sheet, Table
from pipeline.results.estimates import Estimate
from pipeline.results.result import Result
from pipeline.results.values import FACTS, SPLITS, Mean, Value, spread

UNSCALED = {"loss", "perplexity", "params_m", "gender_ratio", "gender_images"}
"not divided by 100 where a paper prints its scores in percent"
UNITS = {
    "cider": "cider is not bounded by 1.",
    "loss": "loss: nats per token, lower is better.",
    "params_m": "params_m: millions.",
    "gender_error": "gender_error: share of images whose caption names the other gender, lower is "
    "better; ours: of images of "
    "which at least half of the references name a woman (a man) and none a man (a woman).",
    "gender_error_named": "gender_error_named: the same among captions that name one gender.",
    "gender_neutral": "gender_neutral: share of these images whose caption names no gender.",
    "gender_ratio": "gender_ratio: captions that name women : captions that name men, not bounded "
    "by 1.",
    "gender_ratio_refs": "gender_ratio_refs: images of women : images of men.",
}
WORDS = (
    "generated captions, PTB tokenizer on captions and references, the words of "
    "pipeline/metrics/gender_words.yaml"
)
FORCED = "on the references, nothing decoded, end token counted, no regulariser or smoothing inside"
Row = dict[str, Any]
"a row of papers.yaml"


def read_papers() -> dict[str, Any]:
    """protocols: {name: text}, tables: {name: {title, rows: [{system, <metric>: number, protocol,
    ...}], ...}}."""
    papers: dict[str, Any] = yaml.safe_load(PAPERS.read_text(encoding="utf-8"))
    return papers


def paper_sheets(papers: dict[str, Any], results: list[Result]) -> list[Sheet]:
    """In the order of papers.yaml."""
    named = {result.paper[0] for result in results if result.paper}
    return [_sheet(papers, table, results) for table in papers["tables"] if table in named]


def _sheet(papers: dict[str, Any], name: str, results: list[Result]) -> Sheet:
    paper = papers["tables"][name]
    ours = [r for r in results if r.paper and r.paper[0] == name]
    printed = {row.get("split", "test") for row in paper["rows"]}
    splits = [split for split in SPLITS if split in printed]
    tables = [_table(paper, split, ours, paper.get("beside", [])) for split in splits]
    shown = [column for table in tables for column in table.columns]
    notes = (
        unavailable(ours, shown)
        + variant_notes(ours)
        + _paper_notes(paper)
        + _context(papers, paper)
    )
    legend = _legend(papers, paper, ours, shown)
    records = [
        record
        for split in splits
        for record in _records(paper, split, ours, paper.get("beside", []))
    ]
    percent = improvements(paper, ours)
    records += [line for table in percent for line in _improved(table)]
    return Sheet(name, paper["title"], tables + percent, legend, notes, records)


def _table(paper: Row, split: str, ours: list[Result], beside: list[str]) -> Table:
    rows = [row for row in paper["rows"] if row.get("split", "test") == split]
    columns = _columns(rows, ours, beside)
    cells: list[tuple[list[str], list[Value]]] = []
    for row in rows:
        same: list[Result | None] = [r for r in ours if r.paper and r.paper[1] == row["system"]]
        for r in same or [None]:
            figures = [_cell(c, row, r, split, ours, paper.get("scale", 1)) for c in columns]
            facts: list[Value] = [r.value(split, fact) if r else "-" for fact in FACTS]
            cells.append(([row["system"], r.label if r else "not run"], figures + facts))
    columns = [*columns, *map(Column, FACTS)]
    about = (
        f"Paper: {_source(paper)}. Ours: "
        f"{'; '.join(dict.fromkeys(r.setting.about(split) for r in ours))}."
    )
    return Table(
        SPLITS[split].capitalize(), about, split, {}, ["system", "variant"], columns, cells
    )


def _columns(rows: list[Row], ours: list[Result], beside: list[str]) -> list[Column]:
    """Metric by metric: ours, a column per protocol, the paper's, a column per protocol, and
    differences under one protocol.

    Args:
        beside: metrics of ours that help to read the paper's.
    """
    columns = []
    for metric in [*(_printed(rows) or metric_names(ours)), *beside]:
        mine = dict.fromkeys(_protocol(r, metric, ours) for r in ours if metric in measured([r]))
        theirs = dict.fromkeys(_paper_protocol(row) for row in rows if metric in row)
        shared = [
            p
            for p in dict.fromkeys(_our_protocol(row) for row in rows if metric in row)
            if p and _has(ours, metric, p)
        ]
        columns += [Column(metric, p) for p in mine]
        columns += [Column(metric, p) for p in shared if p != STANDARD]
        columns += [Column(metric, p, paper=True) for p in theirs]
        columns += [Column(metric, f"ours - paper, {p}", difference=True) for p in shared]
    return columns


def _our_protocol(row: Row) -> str:
    """Ours that equals the protocol of a paper's row; '' where none does."""
    return of_paper(row.get("protocol"))


def _has(ours: list[Result], metric: str, protocol: str) -> bool:
    key = metric if protocol == STANDARD else f"{protocol}.{metric}"
    return any(key in r.scores.get(split, {}) for r in ours if r.scores for split in SPLITS)


def _printed(rows: list[Row]) -> list[str]:
    """The metrics that a paper prints: keys with numbers."""
    there = dict.fromkeys(
        key for row in rows for key, value in row.items() if isinstance(value, int | float)
    )
    return [m for m in ORDER if m in there] + [m for m in there if m not in ORDER]


def _cell(
    column: Column, row: Row, result: Result | None, split: str, ours: list[Result], scale: float
) -> Value:
    """'-' is a figure that this protocol does not have."""
    printed = _paper_figure(column.metric, row, scale)
    if column.paper:
        return printed if printed is not None and _paper_protocol(row) == column.protocol else "-"
    if not result:
        return "-"
    if column.difference:
        protocol = column.protocol.removeprefix("ours - paper, ")
        figure = result.value(split, column.metric, protocol)
        known = printed is not None and _our_protocol(row) == protocol
        return less(figure, printed) if printed is not None and known else "-"
    if column.protocol in protocols_of([result]):
        return result.value(split, column.metric, column.protocol)
    if _protocol(result, column.metric, ours) != column.protocol:
        return "-"
    return result.value(split, column.metric)


def _paper_figure(metric: str, row: Row, scale: float) -> float | None:
    if metric not in row:
        return None
    return float(row[metric]) if metric in UNSCALED else round(row[metric] / scale, 6)


def less(ours: Value, printed: float) -> Value:
    """Ours less the paper's figure, which has no interval of its own."""
    if isinstance(ours, Estimate):
        return replace(ours, value=ours.value - printed, resamples=ours.resamples - printed)
    if isinstance(ours, Mean):
        return replace(ours, value=ours.value - printed)
    return ours - printed if isinstance(ours, float) else "-"


def _protocol(result: Result, metric: str, ours: list[Result]) -> str:
    """The protocol of our figure, in as few words as tell it from the others in this sheet."""
    short, full = _words(result, metric)
    alike = {_words(r, metric)[1] for r in ours if _words(r, metric)[0] == short}
    return short if len(alike) == 1 else full


def _words(result: Result, metric: str) -> tuple[str, str]:
    """Our protocol in few words and in full."""
    corpus = result.setting.corpus
    if metric in TEACHER_FORCED:
        return "teacher-forced", f"teacher-forced, corpus {corpus}"
    refs = f"{result.setting.references.get('test', 'no')} refs"
    search = result.decoding.split(",")[0]
    name = "gender words" if metric in GENDER else "standard"
    return (
        f"{name}: PTB, {refs}, {search}",
        f"{name}: corpus {corpus}, PTB, {refs}, {result.decoding}",
    )


def _paper_protocol(row: Row) -> str:
    return f"{row.get('protocol', 'unknown')} protocol"


def _source(paper: Row) -> str:
    return ", ".join(
        [
            paper.get("dataset", "data set not stated"),
            *([f"split {paper['split']}"] if "split" in paper else []),
        ]
    )


def _legend(
    papers: dict[str, Any], paper: Row, ours: list[Result], shown: list[Column]
) -> list[str]:
    """What each protocol named in a header means."""
    lines = [
        "Scale 0-1"
        + (", the paper's percentages divided by 100." if paper.get("scale", 1) == 100 else ".")
    ]
    metrics = {column.metric for column in shown} - set(FACTS)
    lines += [text for metric, text in UNITS.items() if metric in metrics]
    if metrics - TEACHER_FORCED - set(GENDER):
        lines += dict.fromkeys(
            f"({_protocol(r, 'bleu_4', ours)}) ours: {r.decoding}; {find_protocol(STANDARD).about}."
            for r in ours
        )
    if metrics & set(GENDER):
        lines += dict.fromkeys(
            f"({_protocol(r, 'gender_error', ours)}) ours: {r.decoding}; {WORDS}." for r in ours
        )
    if metrics & TEACHER_FORCED:
        lines += dict.fromkeys(f"({_protocol(r, 'loss', ours)}) ours: {FORCED}." for r in ours)
    named = {column.protocol for column in shown}
    lines += [f"({p}) ours: {find_protocol(p).about}." for p in protocols_of(ours) if p in named]
    used = dict.fromkeys(_paper_protocol(row) for row in paper["rows"])
    lines += [
        f"({name}) the paper's: {papers['protocols'][name.removesuffix(' protocol')]}."
        for name in used
    ]
    lines += clip_legend(ours) + interval_legend(ours, shown)
    return [
        *lines,
        "-: no figure under this protocol. not run: no variant stands beside this row. "
        "n/a: not measured.",
    ]


def _paper_notes(paper: Row) -> list[str]:
    lines = [paper["note"]] if "note" in paper else []
    for row in paper["rows"]:
        status = row.get("status", "read")
        told = ["" if status == "read" else status, row.get("rule", ""), row.get("note", "")]
        if any(told):
            lines.append(f"{row['system']} (paper): {', '.join(filter(None, told))}")
    return lines


def _context(papers: dict[str, Any], paper: Row) -> list[str]:
    """Further published figures, in words: they stand in no column."""
    lines = []
    for name in paper.get("context", []):
        table = papers["tables"][name]
        for row in table["rows"]:
            figures = ", ".join(
                f"{m} {round(row[m] / table.get('scale', 1), 4):g}" for m in _printed([row])
            )
            lines.append(
                f"{table['title']} ({row.get('protocol', 'unknown')} protocol): "
                f"{row['system']} {figures}"
            )
    return lines


def _records(
    paper: Row, split: str, ours: list[Result], beside: list[str]
) -> list[dict[str, Value]]:
    """A line per row of the paper, variant of ours, metric and protocol: what the CSV holds."""
    rows = [row for row in paper["rows"] if row.get("split", "test") == split]
    metrics = [*(_printed(rows) or metric_names(ours)), *beside]
    out: list[dict[str, Value]] = []
    for row in rows:
        same: list[Result | None] = [r for r in ours if r.paper and r.paper[1] == row["system"]]
        for r in same or [None]:
            out += [
                line
                for m in metrics
                for line in _lines(m, row, r, split, ours, paper.get("scale", 1))
            ]
    return out


def _lines(
    metric: str, row: Row, r: Result | None, split: str, ours: list[Result], scale: float
) -> list[dict[str, Value]]:
    """Ours under each protocol; the paper's figure beside ours of the same protocol, or else on a
    line of its own."""
    printed, theirs = _paper_figure(metric, row, scale), _our_protocol(row)
    protocols = [
        p for p in (STANDARD, *(protocols_of([r]) if r else ())) if r and _has([r], metric, p)
    ]
    about: dict[str, Value] = {
        "system": row["system"],
        "variant": r.label if r else "not run",
        "split": split,
        "metric": metric,
    }
    told: dict[str, Value] = {
        "seeds": r.value(split, "seeds") if r else "-",
        "commit": r.value(split, "commit") if r else "-",
    }
    told |= {"status": row.get("status", "read"), "notes": r.notes if r else ""}
    out = []
    for protocol in protocols:
        figure, same = (
            r.value(split, metric, protocol) if r else None,
            printed if protocol == theirs else None,
        )
        low, high = figure.interval if isinstance(figure, Estimate) else (None, None)
        words = _words(r, metric)[1] if r and protocol == STANDARD else protocol
        numbers: dict[str, Value] = {
            "paper": same,
            "ours": figure,
            "difference": "-" if same is None else less(figure, same),
        }
        numbers |= {"low": low, "high": high, "sd": spread(figure)}
        trained = told["seeds"] if protocol == STANDARD else "1"  # the first seed's model alone
        out.append({**about, "protocol": words, **numbers, **told, "seeds": trained})
    if printed is not None and theirs not in protocols:
        blank: dict[str, Value] = dict.fromkeys(("low", "high", "sd"), "-")
        numbers = {"paper": printed, "ours": "-" if r else "not run", "difference": "-", **blank}
        out.append({**about, "protocol": _paper_protocol(row), **numbers, **told})
    return out


def _improved(table: Table) -> list[dict[str, Value]]:
    """Lines of the CSV for a table of improvements: the columns are pairs of ours and the
    paper's."""
    blank: dict[str, Value] = dict.fromkeys(
        ("difference", "low", "high", "sd", *FACTS, "status", "notes"), "-"
    )
    out: list[dict[str, Value]] = []
    for (system, variant), values in ((names, values) for names, values in table.rows):
        for c in range(0, len(values), 2):
            column = table.columns[c]
            about: dict[str, Value] = {
                "system": system,
                "variant": variant,
                "split": table.split,
                "metric": column.metric,
            }
            out.append(
                {
                    **about,
                    "protocol": column.protocol,
                    "paper": values[c + 1],
                    "ours": values[c],
                    **blank,
                }
            )
    return out
