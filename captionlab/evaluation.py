"""Captions and references from anywhere -> scores with intervals under a named protocol; needs no
workspace."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.java import JavaFailed
from pipeline.experiment.protocols import find_protocol, tokenise
from pipeline.metrics.shared.base import Candidates, References
from pipeline.results.estimates import LEVEL, RESAMPLES, Estimate
from pipeline.results.values import COUNTS
from pipeline.scoring.bootstrap import resample
from pipeline.scoring.ptb import ptb_tokenize
from pipeline.scoring.score import SetScores, score_set

METHOD = "percentile bootstrap over images; cider keeps the document frequencies of the whole set"
OF_A_MODEL = (
    "novel, log_prob_rho, loss, perplexity, top5: not scored, they need a model and its "
    "training captions (dvc repro)"
)
NO_GENDER = "there is no image whose references agree on a gender"
LEFT_OUT = {
    "diversity": {"distinct_1": "no caption has a word", "distinct_2": "no caption has two words"},
    "gender": {
        **dict.fromkeys(["gender_error", "gender_neutral", "gender_nobody"], NO_GENDER),
        "gender_error_named": "no caption of an image whose references agree on a gender names "
        "one gender",
        "gender_ratio": "no caption of an image whose references agree on a gender names a man",
        "gender_ratio_refs": "there is no image whose references agree on a man",
    },
}
"metric -> score that it does not always give -> why not"


@dataclass(frozen=True)
class Evaluation:
    protocol: str
    images: int
    left_out: int
    "images with references but without a prediction"
    references_per_image: str
    "'5' or '3-5'"
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    unavailable: dict[str, str]
    "metric -> why it could not run"
    missing: dict[str, str]
    "score that its metric left out -> why"

    def as_json(self) -> dict[str, Any]:
        about = {"name": self.protocol, "about": find_protocol(self.protocol).about}
        return asdict(self) | {
            "protocol": about,
            "interval": {"level": LEVEL, "resamples": RESAMPLES, "about": METHOD},
        }


def evaluate(
    predictions: dict[str, str],
    references: dict[str, list[str]],
    metrics: list[str],
    protocol: str,
    left_out: int = 0,
) -> Evaluation:
    """Args: predictions, references: as written, of the same images.

    Raises:
        UserError: an unknown metric, or a Java that does not run.
    """
    counts = [len(texts) for texts in references.values()]
    each = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
    try:
        found = score_set(*_tokenised(predictions, references, protocol), metrics)
    except JavaFailed as error:
        hint = (
            "meteor and spice can be left out with --metrics, protocol raw tokenises without Java"
        )
        raise UserError(f"{error} ({hint})") from None
    intervals = _intervals(found, len(predictions))
    missing = _missing(found, metrics)
    return Evaluation(
        protocol,
        len(predictions),
        left_out,
        each,
        found.corpus,
        intervals,
        found.unavailable,
        missing,
    )


def _missing(found: SetScores, metrics: list[str]) -> dict[str, str]:
    """What a metric that ran has not given, since it would be a share of nothing."""
    known = {
        score: why
        for name in metrics
        if name not in found.unavailable
        for score, why in LEFT_OUT.get(name, {}).items()
    }
    nobody = found.corpus.get("gender_images") == 0
    return {
        score: NO_GENDER if nobody and score.startswith("gender") else why
        for score, why in known.items()
        if score not in found.corpus
    }


def _tokenised(
    predictions: dict[str, str], references: References, protocol: str
) -> tuple[Candidates, References]:
    """In one call, because starting Java takes longer than tokenising."""
    both = {f"c{i}": [text] for i, text in predictions.items()} | {
        f"r{i}": texts for i, texts in references.items()
    }
    how = find_protocol(protocol).tokens
    if how == "ptb":
        tokens = ptb_tokenize(both)
    else:
        tokens = {key: [tokenise(text, how) for text in texts] for key, texts in both.items()}
    return {i: tokens[f"c{i}"][0] for i in predictions}, {i: tokens[f"r{i}"] for i in references}


def _intervals(found: SetScores, images: int) -> dict[str, tuple[float, float]]:
    drawn = (
        resample(found.sums, images) if images > 1 else {}
    )  # every resample of one image is that image
    return {
        name: Estimate(found.corpus[name], values, "").interval for name, values in drawn.items()
    }


def render(e: Evaluation) -> str:
    """The table that the command prints."""
    width = max([10, *map(len, e.scores)])
    lines = [f"{'score':<{width}} {'value':>7}  {f'{LEVEL:.0%} interval':<16} {'images':>6}"]
    for name, score in e.scores.items():
        low, high = (
            (f"{bound:.4f}" for bound in e.intervals[name]) if name in e.intervals else ("n/a", "")
        )
        value = f"{score:.0f}" if name in COUNTS else f"{score:.4f}"
        lines.append(
            f"{name:<{width}} {value:>7}  {f'{low} - {high}'.strip(' -'):<16} {e.images:>6}"
        )
    lines += [f"{name:<{width}} {'n/a':>7}  {why}" for name, why in e.unavailable.items()]
    for why in dict.fromkeys(e.missing.values()):
        lines.append(
            f"left out, {why}: "
            f"{', '.join(name for name, reason in e.missing.items() if reason == why)}"
        )
    lines += [
        "",
        f"protocol {e.protocol}: {find_protocol(e.protocol).about}; "
        f"{e.references_per_image} references an image",
    ]
    lines += [f"interval: {RESAMPLES} resamples, {METHOD}", OF_A_MODEL]
    if e.left_out:
        lines.append(
            f"partial: {e.left_out} of {e.images + e.left_out} images have no prediction "
            "and are left out"
        )
    return "\n".join(lines)
