"""The values in the cells of a table, and properties of each score: its direction, its unit and how
it is printed."""

from dataclasses import dataclass

from pipeline.results.estimates import Estimate

# Perplexity is exp(loss), so tables for readers leave it out.
CSV_ONLY = {"perplexity"}
# Scores printed without decimals.
COUNTS = {"vocabulary", "gender_images"}
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
# Scores for which neither high nor low is better. Nothing is marked as best or chosen by them.
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
# Facts about a row, not figures of a split: the number of trainings, and the commit of code and
# parameters.
FACTS = ("seeds", "commit")
# A fact too, but only of tables with a row for which it matters: what its pretrained models saw in
# earlier training.
SEEN = "seen in training"
OF_ROWS = (*FACTS, SEEN)
# Scores of the model's own tokens. No captions are compared for them.
TEACHER_FORCED = {"loss", "perplexity", "top5"}
SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True)
class Mean:
    """The mean over training seeds of a score without an interval, such as a count."""

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
    """Return the standard deviation over training seeds, or None if the value is no such mean."""
    return value.sd if isinstance(value, Estimate | Mean) else None
