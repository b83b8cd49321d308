"""Ours beside a paper's: one sheet per table of papers.yaml that a variant names."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.sheets import SPLITS, Column, Sheet, Table, Value
from pipeline.tables import (
    GENDER,
    ORDER,
    TEACHER_FORCED,
    Result,
    interval_legend,
    measured,
    metric_names,
    unavailable,
    variant_notes,
)

UNSCALED = {"loss", "perplexity", "params_m", "gender_ratio", "gender_images"}
"not divided by 100 where a paper prints its scores in percent"
UNITS = {
    "cider": "cider is not bounded by 1.",
    "loss": "loss: nats per token, lower is better.",
    "params_m": "params_m: millions.",
    "gender_error": "gender_error: share of images whose caption names the other gender, lower is better; ours: of images of "
    "which at least half of the references name a woman (a man) and none a man (a woman).",
    "gender_error_named": "gender_error_named: the same among captions that name one gender.",
    "gender_neutral": "gender_neutral: share of these images whose caption names no gender.",
    "gender_ratio": "gender_ratio: captions that name women : captions that name men, not bounded by 1.",
    "gender_ratio_refs": "gender_ratio_refs: images of women : images of men.",
}
STANDARD = "generated captions, PTB tokenizer on captions and references, pycocoevalcap"
WORDS = "generated captions, PTB tokenizer on captions and references, the words of pipeline/metrics/gender_words.yaml"
FORCED = "on the references, nothing decoded, end token counted, no regulariser or smoothing inside"
Row = dict[str, Any]
"a row of papers.yaml"


def read_papers() -> dict[str, Any]:
    """protocols: {name: text}, tables: {name: {title, rows: [{system, <metric>: number, protocol, ...}], ...}}."""
    papers: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("papers.yaml").read_text(encoding="utf-8"))
    return papers


def paper_sheets(papers: dict[str, Any], results: list[Result]) -> list[Sheet]:
    """In the order of papers.yaml."""
    named = {result.paper[0] for result in results if result.paper}
    return [_sheet(papers, table, results) for table in papers["tables"] if table in named]


def _sheet(papers: dict[str, Any], name: str, results: list[Result]) -> Sheet:
    paper = papers["tables"][name]
    ours = [r for r in results if r.paper and r.paper[0] == name]
    printed = {row.get("split", "test") for row in paper["rows"]}
    tables = [_table(paper, split, ours, paper.get("beside", [])) for split in SPLITS if split in printed]
    shown = [column for table in tables for column in table.columns]
    notes = unavailable(ours, shown) + variant_notes(ours) + _paper_notes(paper) + _context(papers, paper)
    return Sheet(name, paper["title"], tables, _legend(papers, paper, ours, shown), notes)


def _table(paper: Row, split: str, ours: list[Result], beside: list[str]) -> Table:
    rows = [row for row in paper["rows"] if row.get("split", "test") == split]
    columns = _columns(rows, ours, beside)
    cells: list[tuple[list[str], list[Value]]] = []
    for row in rows:
        same: list[Result | None] = [r for r in ours if r.paper and r.paper[1] == row["system"]]
        for r in same or [None]:
            figures = [_cell(c, row, r, split, ours, paper.get("scale", 1)) for c in columns]
            cells.append(([row["system"], r.label if r else "not run"], figures))
    about = f"Paper: {_source(paper)}. Ours: {'; '.join(dict.fromkeys(r.setting.about(split) for r in ours))}."
    return Table(SPLITS[split].capitalize(), about, split, {}, ["system", "variant"], columns, cells)


def _columns(rows: list[Row], ours: list[Result], beside: list[str]) -> list[Column]:
    """Metric by metric: ours, a column per protocol of ours, then a column per protocol of the paper.

    Args:
        beside: metrics of ours that help to read the paper's.
    """
    columns = []
    for metric in [*(_printed(rows) or metric_names(ours)), *beside]:
        mine = dict.fromkeys(_protocol(r, metric, ours) for r in ours if metric in measured([r]))
        theirs = dict.fromkeys(_paper_protocol(row) for row in rows if metric in row)
        columns += [Column(metric, p) for p in mine] + [Column(metric, p, paper=True) for p in theirs]
    return columns


def _printed(rows: list[Row]) -> list[str]:
    """The metrics that a paper prints: keys with numbers."""
    there = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, int | float))
    return [m for m in ORDER if m in there] + [m for m in there if m not in ORDER]


def _cell(column: Column, row: Row, result: Result | None, split: str, ours: list[Result], scale: float) -> Value:
    """'-' is a figure that this protocol does not have."""
    if column.paper:
        if column.metric not in row or _paper_protocol(row) != column.protocol:
            return "-"
        figure = float(row[column.metric])
        return figure if column.metric in UNSCALED else round(figure / scale, 6)
    if not result or _protocol(result, column.metric, ours) != column.protocol:
        return "-"
    return result.value(split, column.metric)


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
    return f"{name}: PTB, {refs}, {search}", f"{name}: corpus {corpus}, PTB, {refs}, {result.decoding}"


def _paper_protocol(row: Row) -> str:
    return f"{row.get('protocol', 'unknown')} protocol"


def _source(paper: Row) -> str:
    return ", ".join([paper.get("dataset", "data set not stated"), *([f"split {paper['split']}"] if "split" in paper else [])])


def _legend(papers: dict[str, Any], paper: Row, ours: list[Result], shown: list[Column]) -> list[str]:
    """What each protocol named in a header means."""
    lines = ["Scale 0-1" + (", the paper's percentages divided by 100." if paper.get("scale", 1) == 100 else ".")]
    metrics = {column.metric for column in shown}
    lines += [text for metric, text in UNITS.items() if metric in metrics]
    if metrics - TEACHER_FORCED - set(GENDER):
        lines += dict.fromkeys(f"({_protocol(r, 'bleu_4', ours)}) ours: {r.decoding}; {STANDARD}." for r in ours)
    if metrics & set(GENDER):
        lines += dict.fromkeys(f"({_protocol(r, 'gender_error', ours)}) ours: {r.decoding}; {WORDS}." for r in ours)
    if metrics & TEACHER_FORCED:
        lines += dict.fromkeys(f"({_protocol(r, 'loss', ours)}) ours: {FORCED}." for r in ours)
    used = dict.fromkeys(_paper_protocol(row) for row in paper["rows"])
    lines += [f"({name}) the paper's: {papers['protocols'][name.removesuffix(' protocol')]}." for name in used]
    lines += interval_legend(ours, shown)
    return [*lines, "-: no figure under this protocol. not run: no variant stands beside this row. n/a: not measured."]


def _paper_notes(paper: Row) -> list[str]:
    lines = [paper["note"]] if "note" in paper else []
    for row in paper["rows"]:
        status = row.get("status", "read")
        told = ["" if status == "read" else status, row.get("rule", ""), row.get("note", "")]
        if any(told):
            lines.append(f"{row['system']} (paper): {', '.join(filter(None, told))}")
    for metric, over in paper.get("relative_percent", {}).items():
        lines.append(f"Improvement in percent as printed, {metric} over: {', '.join(f'{k} {v}' for k, v in over.items())}")
    return lines


def _context(papers: dict[str, Any], paper: Row) -> list[str]:
    """Further published figures, in words: they stand in no column."""
    lines = []
    for name in paper.get("context", []):
        table = papers["tables"][name]
        for row in table["rows"]:
            figures = ", ".join(f"{m} {round(row[m] / table.get('scale', 1), 4):g}" for m in _printed([row]))
            lines.append(f"{table['title']} ({row.get('protocol', 'unknown')} protocol): {row['system']} {figures}")
    return lines
