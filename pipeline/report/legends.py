"""The lines below the tables: what each figure is, and what was not measured and why."""

from pipeline.experiment.protocols import STANDARD
from pipeline.languages.languages import ENGLISH, Language, find_language
from pipeline.report.metric_groups import COLLAPSED, GENDER, VARIETY, protocols_of
from pipeline.report.table import Column
from pipeline.results.estimates import ALPHA, LEVEL, RESAMPLES
from pipeline.results.result import Result, Setting


def metric_legend(columns: list[Column]) -> list[str]:
    """Return the lines that explain the metrics of these columns."""
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
