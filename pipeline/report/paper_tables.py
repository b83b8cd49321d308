"""Our figures beside a paper's: one sheet for each table in papers.yaml that a variant names."""

from typing import Any

from pipeline.core.yaml12 import read_yaml
from pipeline.experiment.params import PAPERS
from pipeline.experiment.protocols import STANDARD, find_protocol
from pipeline.report import seen
from pipeline.report.beside_papers import (
    Comparison,
    Improvement,
    Pair,
    PaperRow,
    comparisons,
    improvements,
    is_measured,
    pairs,
    paper_rows,
    printed,
)
from pipeline.report.legends import clip_legend, interval_legend, unavailable, variant_notes
from pipeline.report.metric_groups import GENDER, measured, metric_names, protocols_of
from pipeline.report.table import Column, Sheet, Table
from pipeline.results.result import Result
from pipeline.results.values import FACTS, OF_ROWS, SEEN, SPLITS, TEACHER_FORCED, Value, spread

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


def read_papers() -> dict[str, Any]:
    """Return papers.yaml: protocols: {name: text}, tables: {name: {title, rows: [{system,
    <metric>: number, protocol, ...}], ...}}."""
    papers: dict[str, Any] = read_yaml(PAPERS)
    return papers


def paper_sheets(papers: dict[str, Any], results: list[Result]) -> list[Sheet]:
    """Return the sheets in the order of papers.yaml."""
    named = {result.paper[0] for result in results if result.paper}
    return [_sheet(papers, table, results) for table in papers["tables"] if table in named]


def _sheet(papers: dict[str, Any], name: str, results: list[Result]) -> Sheet:
    paper = papers["tables"][name]
    rows, ours = paper_rows(paper), [r for r in results if r.paper and r.paper[0] == name]
    tables: list[Table] = []
    records: list[dict[str, Value]] = []
    for split in SPLITS:
        if there := [row for row in rows if row.split == split]:
            metrics = [*(printed(there) or metric_names(ours)), *paper.get("beside", [])]
            stand = pairs(there, ours)
            tables.append(_table(_source(paper), split, metrics, stand, ours))
            records += [
                _record(c)
                for pair in stand
                for metric in metrics
                for c in comparisons(pair, metric)
                if c.measured or not c.protocol
            ]
    shown = [column for table in tables for column in table.columns]
    notes = unavailable(ours, shown) + variant_notes(ours)
    notes += _paper_notes(paper, rows) + _context(papers, paper)
    legend = _legend(papers, paper, rows, ours, shown)
    if percent := improvements(paper, ours):
        tables.append(_improvement_table(rows[0].system, percent))
        records += [_improvement_record(improvement) for improvement in percent]
    if seen.columns(ours):
        of = {result.label: seen.seen(result) for result in ours}
        records = [record | {SEEN: of.get(str(record["variant"]), "-")} for record in records]
    return Sheet(name, paper["title"], tables, legend, notes, records=records)


def _table(
    source: str, split: str, metrics: list[str], stand: list[Pair], ours: list[Result]
) -> Table:
    """Return a table with one row per pair. '-' means that there is no figure under a column's
    protocol."""
    columns = _columns(metrics, stand, ours)
    facts = [*map(Column, FACTS), *seen.columns(pair.result for pair in stand if pair.result)]
    cells: list[tuple[list[str], list[Value]]] = []
    for pair in stand:
        figures = _figures(pair, metrics, ours)
        values = [figures.get(column, "-") for column in columns]
        names = [pair.row.system, pair.label]
        cells.append((names, values + [_fact(pair, column.metric) for column in facts]))
    settings = "; ".join(dict.fromkeys(r.setting.about(split) for r in ours))
    return Table(
        SPLITS[split].capitalize(),
        f"Paper: {source}. Ours: {settings}.",
        split,
        {},
        ["system", "variant"],
        [*columns, *facts],
        cells,
    )


def _fact(pair: Pair, name: str) -> Value:
    if name != SEEN:
        return pair.fact(name)
    return seen.seen(pair.result) if pair.result else "-"


def _columns(metrics: list[str], stand: list[Pair], ours: list[Result]) -> list[Column]:
    """Return the columns, metric by metric: ours with one column per protocol, the paper's with one
    per protocol, and the differences under each shared protocol."""
    columns = []
    for metric in metrics:
        rows = [pair.row for pair in stand if metric in pair.row.figures]
        mine = dict.fromkeys(_protocol(r, metric, ours) for r in ours if metric in measured([r]))
        theirs = dict.fromkeys(row.words for row in rows)
        shared = dict.fromkeys(r.ours for r in rows if is_measured(ours, metric, r.ours))
        columns += [Column(metric, words) for words in mine]
        columns += [Column(metric, p) for p in shared if p != STANDARD]
        columns += [Column(metric, words, paper=True) for words in theirs]
        columns += [_difference_column(metric, p) for p in shared]
    return list(dict.fromkeys(columns))


def _figures(pair: Pair, metrics: list[str], ours: list[Result]) -> dict[Column, Value]:
    """Return a pair's figure for each column in which it has one."""
    out: dict[Column, Value] = {}
    for comparison in (c for metric in metrics for c in comparisons(pair, metric)):
        metric, protocol = comparison.metric, comparison.protocol
        if pair.result and protocol:
            words = _protocol(pair.result, metric, ours) if protocol == STANDARD else protocol
            out[Column(metric, words)] = comparison.ours
        if comparison.paper is not None:
            out[Column(metric, pair.row.words, paper=True)] = comparison.paper
            if protocol:
                out[_difference_column(metric, protocol)] = comparison.difference
    return out


def _difference_column(metric: str, protocol: str) -> Column:
    return Column(metric, f"ours - paper, {protocol}", difference=True)


def _record(c: Comparison) -> dict[str, Value]:
    """Return the CSV line of one paper row, one variant of ours, one metric and one protocol."""
    result, row = c.pair.result, c.pair.row
    words = c.protocol or row.words
    if result and c.protocol == STANDARD:
        words = _words(result, c.metric)[1]
    low, high, sd = (*c.interval, spread(c.ours)) if c.protocol else ("-", "-", "-")
    return {
        "system": row.system,
        "variant": c.pair.label,
        "split": row.split,
        "metric": c.metric,
        "protocol": words,
        "paper": c.paper,
        "ours": c.ours,
        "difference": c.difference,
        "low": low,
        "high": high,
        "sd": sd,
        "seeds": c.seeds,
        "commit": c.pair.fact("commit"),
        "status": row.status,
        "notes": result.notes if result else "",
    }


def _improvement_table(best: str, percent: list[Improvement]) -> Table:
    """Return a table with one row per other system and a pair of columns per metric."""
    columns: dict[Column, None] = {}
    rows: dict[tuple[str, str], list[Value]] = {}
    for i in percent:
        title = f"{i.metric}, %"
        columns[Column(title, i.protocol)] = None
        columns[Column(title, "unknown protocol", paper=True)] = None
        rows.setdefault((f"over {i.over}", i.variant), []).extend((i.ours, i.paper))
    about = (
        "100 (its score / the other's - 1); loss_reduction: 100 (1 - its loss / the other's). "
        "Ours: from the test rows above."
    )
    return Table(
        f"Improvement of {best}, in percent",
        about,
        "test",
        {},
        ["improvement", "variant"],
        list(columns),
        [(list(names), values) for names, values in rows.items()],
        unjudged=frozenset(range(len(rows))),
    )


def _improvement_record(i: Improvement) -> dict[str, Value]:
    """Return the CSV line of an improvement. It has no interval, and no commit because it comes
    from two rows."""
    about = {"system": f"over {i.over}", "variant": i.variant, "split": "test"}
    about |= {"metric": f"{i.metric}, %", "protocol": i.protocol}
    blank = ("difference", "low", "high", "sd", "seeds", "commit", "status", "notes")
    return {**about, "paper": i.paper, "ours": i.ours, **dict.fromkeys(blank, "-")}


def _protocol(result: Result, metric: str, ours: list[Result]) -> str:
    """Return the protocol of our figure, in few words if they distinguish it from the others in
    this sheet, and in full otherwise."""
    short, full = _words(result, metric)
    alike = {_words(r, metric)[1] for r in ours if _words(r, metric)[0] == short}
    return short if len(alike) == 1 else full


def _words(result: Result, metric: str) -> tuple[str, str]:
    """Return our protocol in few words and in full."""
    corpus = result.setting.corpus
    if metric in TEACHER_FORCED:
        return "teacher-forced", f"teacher-forced, corpus {corpus}"
    refs = f"{result.setting.references.get('test', 'no')} refs"
    search = result.decoding.partition(",")[0]
    name = "gender words" if metric in GENDER else "standard"
    return (
        f"{name}: PTB, {refs}, {search}",
        f"{name}: corpus {corpus}, PTB, {refs}, {result.decoding}",
    )


def _source(paper: dict[str, Any]) -> str:
    return ", ".join(
        [
            paper.get("dataset", "data set not stated"),
            *([f"split {paper['split']}"] if "split" in paper else []),
        ]
    )


def _legend(
    papers: dict[str, Any],
    paper: dict[str, Any],
    rows: list[PaperRow],
    ours: list[Result],
    shown: list[Column],
) -> list[str]:
    """Return lines that explain the scale, the units and each protocol named in a header."""
    lines = [
        "Scale 0-1"
        + (", the paper's percentages divided by 100." if paper.get("scale", 1) == 100 else ".")
    ]
    metrics = {column.metric for column in shown} - set(OF_ROWS)
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
    used = {row.words: row.protocol for row in rows}
    lines += [
        f"({words}) the paper's: {papers['protocols'][name]}." for words, name in used.items()
    ]
    lines += clip_legend(ours) + interval_legend(ours, shown) + seen.legend(ours)
    return [
        *lines,
        "-: no figure under this protocol. not run: no variant stands beside this row. "
        "n/a: not measured.",
    ]


def _paper_notes(paper: dict[str, Any], rows: list[PaperRow]) -> list[str]:
    lines = [paper["note"]] if "note" in paper else []
    for row in rows:
        told = ["" if row.status == "read" else row.status, row.rule, row.note]
        if any(told):
            lines.append(f"{row.system} (paper): {', '.join(filter(None, told))}")
    return lines


def _context(papers: dict[str, Any], paper: dict[str, Any]) -> list[str]:
    """Return further published figures in words. They are in no column."""
    lines = []
    for name in paper.get("context", []):
        table = papers["tables"][name]
        for row in paper_rows(table):
            figures = ", ".join(f"{m} {round(row.figures[m], 4):g}" for m in printed([row]))
            lines.append(f"{table['title']} ({row.words}): {row.system} {figures}")
    return lines
