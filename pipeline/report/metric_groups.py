"""The columns of the tables: which metrics stand together, and in which order."""

from pipeline.results.result import Result
from pipeline.results.values import SPLITS

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


def protocols_of(results: list[Result]) -> list[str]:
    """Return the measured protocols other than the standard one."""
    return sorted({protocol for r in results if r.scores for protocol in r.scores.protocols})
