"""Scores -> the table of everything. A number names its protocol: split, references, tokenisation, decoding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.files import read_json
from pipeline.params import Decoding, Params
from pipeline.sheets import SPLITS, Column, Sheet, Table, Value

ORDER = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider", "spice", "loss", "perplexity", "top5"]
TEACHER_FORCED = {"loss", "perplexity", "top5"}


@dataclass(frozen=True)
class Setting:
    """What a corpus offers to score on."""

    corpus: str
    scheme: str
    "its split scheme"
    images: dict[str, int]
    references: dict[str, str]
    "split -> references per image, '5' or '3-5'"

    def about(self, split: str) -> str:
        each = f"{self.references.get(split, 'no')} references each"
        return f"corpus {self.corpus}, split '{self.scheme}': {self.images.get(split, 0)} {SPLITS[split]} images, {each}"


@dataclass(frozen=True)
class Result:
    """One scored system: a variant, or a corpus's most-frequent-caption baseline (which decodes nothing)."""

    name: str
    setting: Setting
    decoding: str
    "as `decoding_text` says it; '' for the baseline"
    scores: dict[str, Any] | None
    "reports/scores/<name>.json; None: not run"
    paper: tuple[str, str] | None = None
    "table and system of papers.yaml"
    notes: str = ""

    @property
    def label(self) -> str:
        return self.name if self.decoding else "most frequent caption"

    def value(self, split: str, metric: str) -> Value:
        if self.scores is None:
            return "not run"
        score = self.scores.get(split, {}).get(metric)
        return None if score is None else float(score)


def setting(corpus: str, scheme: str, captions: pd.DataFrame, references: dict[str, list[str]]) -> Setting:
    """Args:
    captions: image_id and split.
    references: image_id -> what its captions are scored against, for validation and test.
    """
    images, each = {}, {}
    for split, ids in captions[captions["split"].isin(SPLITS)].groupby("split")["image_id"]:
        counts = [len(references[image]) for image in ids.unique()]
        images[str(split)] = len(counts)
        each[str(split)] = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
    return Setting(corpus, scheme, images, each)


def results_of(params: Params, settings: dict[str, Setting], scores: Path) -> list[Result]:
    """Every variant in the order of the params, then the baseline of every corpus.

    Args:
        scores: the folder of <name>.json; a system without one was not run.
    """
    results = []
    for name, variant in params.variants.items():
        decode, words = params.decoding(name), params.training(name).vocabulary_splits
        note = "" if words == ["train"] else f"vocabulary counted over {', '.join(words)}; "
        paper = (variant.paper.table, variant.paper.system) if variant.paper else None
        text = decoding_text(decode)
        notes = (note + " ".join(variant.notes.split())).removesuffix("; ")
        results.append(Result(name, settings[variant.corpus], text, _read(scores / f"{name}.json"), paper, notes))
    baselines = {f"most-frequent--{corpus}": setting for corpus, setting in settings.items()}
    return results + [Result(name, setting, "", _read(scores / f"{name}.json")) for name, setting in baselines.items()]


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def decoding_text(decode: Decoding) -> str:
    search = "greedy" if decode.beam == 1 else f"beam {decode.beam}, length penalty {decode.length_penalty:g}"
    if decode.samples:
        count = "one sample" if decode.samples == 1 else f"best of {decode.samples} samples"
        among = f"the {decode.top_k} likeliest words" if decode.top_k else "all words"
        search = f"{count}, temperature {decode.temperature:g} among {among}, seed {decode.seed}"
    return f"{search}, at most {decode.max_tokens} tokens"


def everything(results: list[Result], requested: list[str]) -> Sheet:
    """A row per variant and the baseline, test before validation, in groups of one corpus and one decoding.

    Args:
        requested: scoring.metrics of the params; one that could not run keeps its column, full of n/a.
    """
    columns = [Column(metric) for metric in metric_names(results, tuple(requested))]
    groups = _groups(results)
    tables = []
    for corpus, decoding in groups:
        rows = [r for r in results if r.setting.corpus == corpus and r.decoding in (decoding, "")]
        alone = [name for name, _ in groups].count(corpus) == 1
        for split, split_name in SPLITS.items():
            title = f"{corpus}, {split_name}" if alone else f"{corpus}, {decoding}, {split_name}"
            about = f"{rows[0].setting.about(split)}; captions: {decoding or 'no model'}."
            cells = [([r.label], [r.value(split, c.metric) for c in columns]) for r in rows]
            tables.append(Table(title, about, split, {"corpus": corpus, "decoding": decoding}, ["variant"], columns, cells))
    return Sheet("all", "Results", tables, LEGEND, unavailable(results, columns) + variant_notes(results))


LEGEND = [
    "Scale 0-1; cider is not bounded by 1, loss is in nats per token. Higher is better, but for loss.",
    "bleu, meteor, rouge_l, cider, spice: generated captions; PTB tokenizer on captions and references (pycocoevalcap).",
    "loss, top5: teacher-forced on the references, nothing decoded, end token counted, no regulariser or smoothing inside; "
    "they compare only variants with the same vocabulary.",
    "most frequent caption: the commonest training caption, given for every image. n/a: not measured.",
]


def metric_names(results: list[Result], requested: tuple[str, ...] = ()) -> list[str]:
    """What was measured or asked for, in the order of the columns."""
    measured = {m for r in results if r.scores for split in SPLITS for m in r.scores.get(split, {})}
    return [m for m in ORDER if m in measured or m.startswith(requested)] + sorted(measured - set(ORDER))


def _groups(results: list[Result]) -> list[tuple[str, str]]:
    """(corpus, decoding) of the variants; a corpus that has only its baseline stands with decoding ''."""
    decoded = dict.fromkeys((r.setting.corpus, r.decoding) for r in results if r.decoding)
    bare = {r.setting.corpus: None for r in results if r.setting.corpus not in {corpus for corpus, _ in decoded}}
    return [*decoded, *((corpus, "") for corpus in bare)]


def unavailable(results: list[Result], columns: list[Column]) -> list[str]:
    """Why a metric of these columns could not run."""
    shown = {column.metric for column in columns}
    told = {m: why for r in results if r.scores for m, why in r.scores.get("unavailable", {}).items()}
    reasons = {m: why for m, why in told.items() if any(name.startswith(m) for name in shown)}
    return [f"{metric}: n/a, {why}" for metric, why in sorted(reasons.items())]


def variant_notes(results: list[Result]) -> list[str]:
    return [f"{r.label}: {r.notes}" for r in results if r.notes]
