"""Score captions from anywhere against references, with intervals, under a named protocol.

This needs no workspace, and neither DVC, MLflow, Great Expectations nor torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from captionlab.caption_sets import PYTHON, Caller, match, read_both
from captionlab.comparison import Comparison, compare
from captionlab.references_language import check_language
from pipeline.core.errors import UserError
from pipeline.core.java import JavaFailed
from pipeline.core.registry import find, load, nearest
from pipeline.data.files import fingerprint
from pipeline.experiment.protocols import STANDARD, Protocol, find_protocol, tokenise
from pipeline.languages.languages import ENGLISH, find_language
from pipeline.metrics.shared.base import Array, Candidates, References
from pipeline.results.estimates import LEVEL, RESAMPLES, Estimate
from pipeline.results.values import COUNTS
from pipeline.scoring.bootstrap import resample
from pipeline.scoring.score import SetScores, score_set
from pipeline.scoring.tokens import tokenised

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from captionlab.caption_files import Source

# Default metrics for English captions. Other languages also get chrf.
METRICS = ("bleu", "meteor", "rouge_l", "cider")
# The protocols of protocols.yaml that need no model.
PROTOCOLS = (STANDARD, "raw", "cleaned-references")
METHOD = "percentile bootstrap over images; cider keeps the document frequencies of the whole set"
OF_A_MODEL = (
    "novel, log_prob_rho, loss, perplexity, top5: not scored, they need a model and its "
    "training captions (dvc repro)"
)
ONE_IMAGE = (
    "cider: 0 for a single image, because it weighs words by how few images have them, and each "
    "word of this one is in all images there are"
)
NO_GENDER = "there is no image whose references agree on a gender"
# Metric -> score that it does not always give -> why not.
LEFT_OUT = {
    "degeneration": {
        "bad_endings": "it knows the words that end no English caption, and the references are not "
        "English"
    },
    "diversity": {"distinct_1": "no caption has a word", "distinct_2": "no caption has two words"},
    "gender": {
        **dict.fromkeys(["gender_error", "gender_neutral", "gender_nobody"], NO_GENDER),
        "gender_error_named": "no caption of an image whose references agree on a gender names "
        "one gender",
        "gender_ratio": "no caption of an image whose references agree on a gender names a man",
        "gender_ratio_refs": "there is no image whose references agree on a man",
    },
}


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The scores of one set of captions. It prints as a table."""

    protocol: str
    "How captions and references were tokenised: standard, raw or cleaned-references."
    images: int
    "Number of images that were scored."
    left_out: int
    "Number of images with references but without a prediction."
    without_references: int
    "Number of images with a prediction but without references."
    references_per_image: str
    "'5', or '3-5' if images have different numbers of references."
    scores: dict[str, float]
    "Scores of the whole set, by name: bleu_1 to bleu_4, meteor, rouge_l, cider, ..."
    intervals: dict[str, tuple[float, float]]
    "95 % intervals, by score. Only means over images have one; counts do not."
    unavailable: dict[str, str]
    "Metric -> why it could not run."
    missing: dict[str, str]
    "Score that its metric left out -> why."
    per_image: "pd.DataFrame" = field(compare=False)
    "One row per image: image_id, then each score that single images have; NaN if one has none."
    resamples: dict[str, Array] = field(compare=False)
    "Score -> its values on resamples of the images, shape (1000,)."
    content: str = field(compare=False)
    "Fingerprint of images, references and protocol. It is equal for systems that can be compared."
    language: str = ENGLISH
    "Language of captions and references, as its ISO 639 code."

    @property
    def how(self) -> Protocol:
        """The protocol, described for this language."""
        return find_protocol(self.protocol).of(self.language)

    def compare(self, other: "Evaluation") -> Comparison:
        """Compare this system with another (this minus other) by the paired bootstrap over images.

        Example:
            >>> ours = evaluate("ours.json", "references.json")
            >>> ours.compare(evaluate("theirs.json", "references.json"))
            metric    this   other  difference  95% interval           p
            bleu_4  0.3120  0.2980     +0.0140  +0.0030 - +0.0250  0.012

        Raises:
            UserError: the two were scored on different images or references, or by different
                protocols.
        """
        return compare(self, other)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per score: metric, value, low and high; NaN if it has no interval."""
        import pandas as pd

        nothing = (float("nan"), float("nan"))
        rows = [
            (name, value, *self.intervals.get(name, nothing)) for name, value in self.scores.items()
        ]
        return pd.DataFrame(rows, columns=["metric", "value", "low", "high"])

    def as_json(self) -> dict[str, Any]:
        """Return what `captionlab score --out` writes."""
        about = {"name": self.protocol, "about": self.how.about}
        if self.language != ENGLISH:
            about["language"] = self.language
        told = ["images", "left_out", "without_references", "references_per_image"]
        told += ["scores", "intervals", "unavailable", "missing"]
        return {name: getattr(self, name) for name in told} | {
            "protocol": about,
            "interval": {"level": LEVEL, "resamples": RESAMPLES, "about": METHOD},
        }

    def __repr__(self) -> str:
        return render(self)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, na_rep="n/a", float_format="{:.4f}".format)


def evaluate(
    predictions: "Source",
    references: "Source",
    metrics: str | Iterable[str] | None = None,
    protocol: str = STANDARD,
    *,
    split: str | None = None,
    partial: bool = False,
    language: str = ENGLISH,
    synonyms: "str | Path | None" = None,
    instances: "Sequence[str | Path]" = (),
    caller: Caller = PYTHON,
) -> Evaluation:
    """Score captions against references, with the figures of the original tools.

    Args:
        predictions: one caption per image: {image_id: text}, {image_id: [text]}, a DataFrame or a
            list of rows with image_id and caption, or a path to COCO's JSON, JSON lines, CSV, TSV
            or Parquet. Rows may name a `file` in place of an image_id, as `captionlab caption
            --out` writes them.
        references: one or more captions per image, in the same forms. The captions.parquet of a
            corpus is accepted, too.
        metrics: a list of names, or one text with commas between them. The default is bleu, meteor,
            rouge_l and cider, plus chrf if the language is not English. spice needs models of its
            own. diversity, degeneration and gender measure more than overlap.
        protocol: standard applies the tokenizer of the language to both sides (English: PTB). raw
            splits at white space. cleaned-references keeps a-z only and drops one-letter words.
        split: use only images of this split. It is read from the column `split`, or from the entry
            in `images` of COCO's JSON. It is an error if neither side has one.
        partial: leave out images without a prediction or without references. Otherwise they are an
            error.
        language: language of both sides, as its ISO 639 code: en, de, hi, zh, ...
        synonyms: COCO's file of synonyms for the metric chair: one line of words per object.
        instances: files of COCO's segmentations for chair. Without them, an image has the objects
            that its references name.
        caller: the names that messages use for these options; the command line has its own.

    Returns:
        Scores of the whole set with 95 % intervals, and scores of each image. It prints as a table.

    Raises:
        UserError: a file or form cannot be read; images do not match; a metric, protocol or
            language is unknown; a metric lacks its files; references are in another script than
            the language's; a tokenizer is not installed; or Java does not run.

    Example:
        >>> from captionlab import evaluate
        >>> found = evaluate(
        ...     {"1": "a dog runs"}, {"1": ["the dog runs", "a dog"]}, "bleu,rouge_l", "raw"
        ... )
        >>> round(found.scores["rouge_l"], 4)
        0.8299
    """
    find_language(language)
    more = [] if language == ENGLISH else ["chrf"]
    names = _metrics([*METRICS, *more] if metrics is None else metrics)
    if protocol not in PROTOCOLS:
        near = nearest(protocol, PROTOCOLS)
        raise UserError(f"unknown protocol '{protocol}'{near}: there are {', '.join(PROTOCOLS)}")
    objects = _objects(names, synonyms, instances, language, caller)
    given, known = read_both(predictions, references, split, partial, caller)
    said, meant = match(given, known, partial, (predictions, references), caller)
    left_out = len(known) - len(meant), len(given) - len(said)
    check_language(meant, language, protocol)
    return _scored(said, meant, names, protocol, language, objects, *left_out)


def _objects(
    names: list[str],
    synonyms: "str | Path | None",
    instances: "Sequence[str | Path]",
    language: str,
    caller: Caller,
) -> dict[str, Any] | None:
    """Return the arguments that chair takes beside the texts, or None.

    Raises:
        UserError: a metric needs pictures or lacks its files, which n/a would hide; a file is given
            but no metric uses it; or there is no such file.
    """
    for name in names:
        if getattr(load("metrics", name), "NEEDS_IMAGES", False):
            raise UserError(
                f"{name} needs the pictures, which stand beside no captions here: leave it out, or "
                "name it in scoring.metrics of params.yaml"
            )
    if "chair" not in names and (synonyms or instances):
        raise UserError(
            f"{caller.synonyms} and {caller.instances} are for the metric chair: name it, too"
        )
    if "chair" in names and not synonyms and language == ENGLISH:  # for others, chair says why not
        raise UserError(f"chair needs COCO's synonyms: give {caller.synonyms}")
    for option, files in (("synonyms", [synonyms]), ("instances", instances)):
        for file in files:
            _check_file(file, f"COCO's {option}")
    return {"synonyms": synonyms, "instances": list(instances)} if synonyms else None


def _check_file(file: "str | Path | None", what: str) -> None:
    from pathlib import Path

    if file is not None and not Path(file).is_file():
        is_not = "is a folder" if Path(file).is_dir() else "is not there"
        raise UserError(f"{file} {is_not}: name a file of {what}")


def _metrics(metrics: str | Iterable[str]) -> list[str]:
    listed = metrics.split(",") if isinstance(metrics, str) else metrics
    names = list(dict.fromkeys(name.strip() for name in listed))
    for name in names:
        find("metrics", name)
    return names


def _scored(
    predictions: dict[str, str],
    references: dict[str, list[str]],
    metrics: list[str],
    protocol: str,
    language: str,
    objects: dict[str, Any] | None,
    left_out: int,
    unknown: int,
) -> Evaluation:
    try:
        both = _tokenised(predictions, references, protocol, language)
        found = score_set(*both, metrics, {"chair": (objects,)}, language)
    except JavaFailed as error:
        hint = "meteor and spice may be left out; the protocol raw tokenises without Java"
        raise UserError(f"{error} ({hint})") from None
    # With a single image, every resample is that image.
    drawn = resample(found.sums, len(predictions)) if len(predictions) > 1 else {}
    content = fingerprint([protocol, references, *([] if language == ENGLISH else [language])])
    return Evaluation(
        protocol,
        len(predictions),
        left_out,
        unknown,
        _per_image(references),
        found.corpus,
        {name: Estimate(found.corpus[name], d, content).interval for name, d in drawn.items()},
        found.unavailable,
        _missing(found, metrics),
        _table(found, list(predictions)),
        drawn,
        content,
        language,
    )


def _per_image(references: References) -> str:
    """Return how many references an image has: '5', or '3-5'."""
    counts = [len(texts) for texts in references.values()]
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"


def _table(found: SetScores, images: list[str]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({"image_id": images, **found.per_image})


def _missing(found: SetScores, metrics: list[str]) -> dict[str, str]:
    """Return score -> why a metric that ran left it out: it would be a share of nothing."""
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
    predictions: dict[str, str], references: References, protocol: str, language: str
) -> tuple[Candidates, References]:
    """Tokenise both sides in one call, because starting Java takes longer than tokenising."""
    both = {f"c{i}": [text] for i, text in predictions.items()} | {
        f"r{i}": texts for i, texts in references.items()
    }
    how = find_protocol(protocol).tokens
    if how == "ptb":
        tokens = tokenised(both, language)
    else:
        tokens = {key: [tokenise(text, how) for text in texts] for key, texts in both.items()}
    return {i: tokens[f"c{i}"][0] for i in predictions}, {i: tokens[f"r{i}"] for i in references}


def render(e: Evaluation) -> str:
    """Return the table that the command prints."""
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
    if "cider" in e.scores and e.images == 1:
        lines.append(ONE_IMAGE)
    lines += [
        "",
        f"protocol {e.protocol}: {e.how.about}; {e.references_per_image} references an image",
    ]
    lines += [f"interval: {RESAMPLES} resamples, {METHOD}", OF_A_MODEL]
    if e.left_out:
        lines.append(
            f"partial: {e.left_out} of {e.images + e.left_out} images have no prediction "
            "and are left out"
        )
    if e.without_references:
        lines.append(
            f"partial: {e.without_references} predictions are for images without references and "
            "are left out"
        )
    return "\n".join(lines)
