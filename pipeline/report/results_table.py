"""The table of all scores. Every number names its protocol: split, references, tokenisation and
decoding."""

from pipeline.experiment.protocols import STANDARD, find_protocol
from pipeline.languages.languages import ENGLISH, Language, find_language
from pipeline.report import seen
from pipeline.report.table import Column, Sheet, Table
from pipeline.results.estimates import ALPHA, LEVEL, RESAMPLES, Estimate
from pipeline.results.result import Result, Setting
from pipeline.results.values import FACTS, SEEN, SPLITS, Value, number

ORDER = [
    "bleu_1",
    "bleu_2",
    "bleu_3",
    "bleu_4",
    "meteor",
    "rouge_l",
    "cider",
    "plain_cider",
    "chrf",
    "spice",
    "spider",
    "clip_score",
    "ref_clip_score",
    "loss",
    "perplexity",
    "top5",
]
VARIETY = [
    *("distinct_1", "distinct_2", "distinct_captions", "vocabulary", "mean_length", "novel"),
    *(
        "chair_i",
        "chair_s",
        "object_recall",
        "self_cider",
        "collapse",
        "repetition",
        "bad_endings",
        "log_prob_rho",
    ),
]
GENDER = [
    *("gender_images", "gender_error", "gender_error_named", "gender_neutral", "gender_nobody"),
    *("gender_ratio", "gender_ratio_refs"),
]
# Tables of one group of systems: addition to the title -> metrics.
KINDS = {"": ORDER, "beyond n-grams": VARIETY, "gender": GENDER}
# Share of images with the same caption above which a table warns.
COLLAPSED = 0.05


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
        _legend(shown)
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


def protocols_of(results: list[Result]) -> list[str]:
    """Return the measured protocols other than the standard one."""
    return sorted({protocol for r in results if r.scores for protocol in r.scores.protocols})


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


def _foreign(results: list[Result]) -> list[Setting]:
    """Return the setting of each corpus that is not English."""
    settings = {r.setting.corpus: r.setting for r in results}
    return [each for each in settings.values() if each.language != ENGLISH]


def language_legend(results: list[Result]) -> list[str]:
    """Return lines that name the tokenizer of each corpus that is not English."""
    return [
        f"corpus {each.corpus}: captions in {each.named}; {each.tokens} on captions and references "
        "in place of the PTB tokenizer, in columns of their own where the CSV has several "
        "tokenizers."
        for each in _foreign(results)
    ]


def quoting(results: list[Result]) -> list[str]:
    """Return lines that say how to quote captions of these corpora in LaTeX. pdfLaTeX may not be
    able to show them."""
    return [_quoting(each, find_language(each.language)) for each in _foreign(results)]


def _quoting(setting: Setting, language: Language) -> str:
    name = language.name.lower()
    return (
        f"To quote captions of corpus {setting.corpus} ({language.name}, "
        f"{WRITTEN[language.direction]}): LuaLaTeX with \\usepackage[bidi=basic]{{babel}}, "
        f"\\babelprovide[import]{{{name}}}, and \\babelfont[{name}]{{rm}}{{FONT}} of a font with "
        f"{language.letters} letters, such as one of the Noto fonts."
    )


def clip_legend(results: list[Result]) -> list[str]:
    """Return a line that names the CLIP models behind the scores. Values of different models are
    not comparable."""
    models = sorted({str(r.about["clip"]) for r in results if r.about.get("clip")})
    return [f"clip_score, ref_clip_score: by {', '.join(models)}; maximum 2.5."] if models else []


def protocol_legend(results: list[Result]) -> list[str]:
    if not protocols_of(results):
        return []
    return [
        f"Tables by protocol: the score as everywhere ({STANDARD}), that under the other "
        "protocol, and the difference that the "
        "protocol alone makes; greedy and beam-k score other captions of the same model, "
        "teacher_forced none."
    ]


def collapsed(result: Result, split: str) -> list[str]:
    """Return a warning if a model gives the same caption to more than a share `COLLAPSED` of the
    images. The baseline does so by design and is not warned about."""
    share, images = number(result.value(split, "collapse")), result.setting.images.get(split, 0)
    if not result.decoding or share is None or share <= COLLAPSED or round(share * images) < 2:
        return []
    return [f"{result.label} gives the same caption for {round(share * images)} of {images} images"]


def _legend(columns: list[Column]) -> list[str]:
    shown = {column.metric for column in columns}
    return (
        LEGEND
        + [line for name, line in JUDGES.items() if name in shown]
        + (VARIETY_LEGEND if shown & set(VARIETY) else [])
        + (GENDER_LEGEND if shown & set(GENDER) else [])
    )


LEGEND = [
    "Scale 0-1; cider is not bounded by 1, loss is in nats per token. Higher is better, "
    "but for loss.",
    "bleu, meteor, rouge_l, cider, spice: generated captions; PTB tokenizer on captions "
    "and references (pycocoevalcap).",
    "loss, top5: teacher-forced on the references, nothing decoded, end token counted, no "
    "regulariser or smoothing inside; "
    "they compare only variants with the same vocabulary.",
    "most frequent caption: the commonest training caption, given for every image. n/a: "
    "not measured.",
]
# Lines of the legend, by the score that they explain.
JUDGES = {
    "chrf": "chrf: F2 of character n-grams, orders 1 to 6, of the same tokens (sacrebleu's chrF / "
    "100).",
    "plain_cider": "cider is CIDEr-D; plain_cider: CIDEr without the D, which neither clips "
    "repeated words nor penalises length differences.",
    "spider": "spider: the mean of cider and spice.",
    "chair_i": "chair_i: mentions of objects that an image does not have / all mentions of "
    "objects; chair_s: share of captions with such a mention; lower is better. object_recall: "
    "objects named / objects that are there. By COCO's synonyms.",
    "self_cider": "self_cider: how different the captions are that a model keeps of one image "
    "(decode.alternatives), from 0 (equal) to 1 (no n-gram in common); neither end is better by "
    "itself.",
}
WRITTEN = {"ltr": "written from left to right", "rtl": "written from right to left"}
VARIETY_LEGEND = [
    "distinct_1, distinct_2: different words and word pairs / all of them, over all "
    "captions; distinct_captions: different "
    "captions / captions; vocabulary: how many different words; mean_length: in words; "
    "novel: share of captions that are not a "
    "training caption. Scale 0-1 but for vocabulary and mean_length; neither end is better "
    "by itself; distinct_* compare only "
    "systems on the same images.",
    "collapse: share of images with the most frequent caption, lower is better; a warning "
    "stands under the table above "
    f"{COLLAPSED:g}. repetition: share of captions that repeat words at once, or three "
    "words in a row anywhere, lower is "
    "better. bad_endings: share of captions that end in an article, a preposition or the "
    "like, lower is better.",
    "log_prob_rho: rank correlation (Spearman, -1 to 1) over images of a caption's "
    "log-probability per token with its CIDEr, "
    "higher is better: 0 means that the model does not know which of its captions are good.",
]
GENDER_LEGEND = [
    "gender_images: images of which at least half of the references name a woman (a man) "
    "and none a man (a woman); the other "
    "gender figures are of these. gender_error: share whose caption names the other gender "
    "alone, gender_error_named: the same "
    "among captions that name one gender; scale 0-1, lower is better, beside "
    "gender_neutral: a caption that names no gender cannot name the wrong one.",
    "gender_neutral: share whose caption names no gender; gender_nobody: no person either. "
    "gender_ratio: captions that name "
    "women : captions that name men; gender_ratio_refs: images of women : images of men, "
    "which gender_ratio should equal. "
    "n/a: no such image, or no caption that names a man.",
]


def interval_legend(results: list[Result], columns: list[Column]) -> list[str]:
    if not any(r.estimates for r in results):
        return _spread_legend(results)
    lines = [
        f"±: half the {LEVEL:.0%} interval of a percentile bootstrap over images "
        f"({RESAMPLES} resamples; cider keeps the "
        "document frequencies of the whole set). It says how far other images would move a "
        "score, not another training.",
        "Bold: the best of the column and what a paired bootstrap over the same images "
        f"does not tell from it (p >= {ALPHA}).",
    ]
    lines += [
        f"{line} ± and bold tell of other images, s of another training."
        for line in _spread_legend(results)
    ]
    if {column.metric for column in columns} & {*VARIETY, *GENDER}:
        lines.append(
            "Without ±: what is no mean over images (counts, ratios, distinct_*, collapse, "
            "log_prob_rho), or of so few images "
            "that some resample had none. A share of 0 has ±.0000, because no resample "
            "holds what no image has."
        )
    return lines


def _spread_legend(results: list[Result]) -> list[str]:
    if all(score.sd is None for r in results for score in r.scores or ()):
        return []
    about = "the figure is their mean, and under another protocol that of the first seed's model."
    return [f"s: standard deviation over training seeds; {about}"]


def metric_names(
    results: list[Result], requested: tuple[str, ...] = (), kind: str = ""
) -> list[str]:
    """Return the metrics of one of `KINDS` that were measured or requested, in the order of the
    columns. The kind '' also includes the metrics that are in no kind."""
    there = measured(results)
    unknown = [] if kind else sorted(there.difference(*KINDS.values()))
    return [m for m in KINDS[kind] if m in there or m.startswith(requested)] + unknown


def measured(results: list[Result]) -> set[str]:
    """Return the metrics that were measured under the standard protocol."""
    return {m for r in results for split in SPLITS for m in r.measured(split)}


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


def unavailable(results: list[Result], columns: list[Column]) -> list[str]:
    """Return lines that say why metrics of these columns could not run."""
    shown = {column.metric for column in columns}
    told = {
        m: why for r in results if r.scores for m, why in r.about.get("unavailable", {}).items()
    }
    reasons = {m: why for m, why in told.items() if any(name.startswith(m) for name in shown)}
    return [f"{metric}: n/a, {why}" for metric, why in sorted(reasons.items())]


def variant_notes(results: list[Result]) -> list[str]:
    return [f"{r.label}: {r.notes}" for r in results if r.notes]
