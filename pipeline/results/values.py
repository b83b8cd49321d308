"""What stands in a cell of a table, and what is known of each score: its direction, its unit, how
it is printed."""

from dataclasses import dataclass

from pipeline.results.estimates import Estimate

CSV_ONLY = {"perplexity"}
"is exp(loss), so the tables that people read leave it out"
COUNTS = {"vocabulary", "gender_images"}
"printed without decimals"
LOWER_IS_BETTER = {
    *(
        "loss",
        "perplexity",
        "gender_error",
        "gender_error_named",
        "collapse",
        "repetition",
        "bad_endings",
        "chair_i",
        "chair_s",
    ),
}
NO_DIRECTION = {
    *(
        "params_m",
        "distinct_1",
        "distinct_2",
        "distinct_captions",
        "vocabulary",
        "mean_length",
        "novel",
        "self_cider",
    ),
    *("gender_images", "gender_neutral", "gender_nobody", "gender_ratio", "gender_ratio_refs"),
    *("seeds", "commit", "seen in training"),
}
"neither high nor low is better: nothing is marked as best, nothing is chosen by it"
FACTS = ("seeds", "commit")
"of a row, not figures of a split: how many trainings, and the commit of code and parameters"
SEEN = "seen in training"
"a fact too, of tables that have a row for which it matters: what its pretrained models saw before"
OF_ROWS = (*FACTS, SEEN)
TEACHER_FORCED = {"loss", "perplexity", "top5"}
"of a model's own tokens: no captions are compared"
SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True)
class Mean:
    """Over training seeds, of a score that has no interval: a count, or whatever was not
    resampled."""

    value: float
    sd: float


Value = float | Estimate | Mean | str | None


def number(value: Value) -> float | None:
    return (
        value.value
        if isinstance(value, Estimate | Mean)
        else value
        if isinstance(value, float)
        else None
    )


def spread(value: Value) -> float | None:
    """Standard deviation over training seeds, of a mean over several."""
    return value.sd if isinstance(value, Estimate | Mean) else None
