"""The content of a table: the scores of each system and the other facts in its row. They are read
from the workspace or from JSON."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import BaseModel

from pipeline.data.checked import need_references, read_checked
from pipeline.experiment.params import Params
from pipeline.experiment.protocols import STANDARD
from pipeline.languages.languages import ABOUT, ENGLISH, find_language
from pipeline.results.decoding import decoding_text
from pipeline.results.estimates import Estimate, read_estimates
from pipeline.results.pretrained import data_set, pretrained
from pipeline.results.scores import MEAN, OWN, Key, Score, ScoreTable
from pipeline.results.values import FACTS, SPLITS, Mean, Value, number


@dataclass(frozen=True)
class Setting:
    """The images and references of a corpus that systems are scored on."""

    corpus: str
    scheme: str
    "Split scheme of the corpus."
    images: dict[str, int]
    "Split -> number of images."
    references: dict[str, str]
    "Split -> references per image, such as '5' or '3-5'."
    language: str = ENGLISH
    "Language of the captions."

    def about(self, split: str) -> str:
        each = f"{self.references.get(split, 'no')} references each"
        tokens = "" if self.language == ENGLISH else f", in {self.named}, {self.tokens}"
        return (
            f"corpus {self.corpus}, split '{self.scheme}': {self.images.get(split, 0)} "
            f"{SPLITS[split]} images, {each}{tokens}"
        )

    @property
    def named(self) -> str:
        """Name of the language, such as `Chinese`."""
        return find_language(self.language).name

    @property
    def tokens(self) -> str:
        """Description of the tokenizer that scores use."""
        return ABOUT[find_language(self.language).tokenizer]


@dataclass(frozen=True)
class Result:
    """One scored system: a variant, or a corpus's most-frequent-caption baseline (which decodes
    nothing)."""

    name: str
    setting: Setting
    decoding: str
    "Text from `decoding_text`; '' for the baseline."
    scores: ScoreTable | None
    "Content of data/scores/<name>/scores.csv. None if the system was not run."
    about: dict[str, Any] = field(default_factory=dict)
    "Content of about.json in that folder: commit, seeds (not for the baseline), clip, unavailable."
    paper: tuple[str, str] | None = None
    "Table and system in papers.yaml."
    notes: str = ""
    estimates: dict[Key, Estimate] = field(default_factory=dict)
    "Estimates by score. Empty if nothing was resampled."
    data: str = ""
    "Data set, from `data_set`. '' for the baseline and for rows published without it."
    pretrained: tuple[str, ...] = ()
    "Names of the pretrained models in params.yaml."

    @property
    def label(self) -> str:
        return self.name if self.decoding else "most frequent caption"

    def value(self, split: str, metric: str, protocol: str = STANDARD) -> Value:
        """Return a score or fact of the row.

        Under `standard`, a score is the mean over training seeds. Under other protocols, it is the
        score of the first seed's model.

        Returns:
            None if there is no such score. Under `standard`, that is the case if any seed lacks it.
        """
        if metric in FACTS:
            return str(self.about.get(metric) or "n/a") if self.scores is not None else "not run"
        if protocol != STANDARD:
            return self._of(Key(split, protocol, OWN, metric))
        mean = self._of(Key(split, STANDARD, MEAN, metric))
        return self.own(split, metric) if mean is None and self.about.get("seeds", 1) == 1 else mean

    def own(self, split: str, metric: str) -> Value:
        """Return the score of the first seed's model under `standard`, even if there are further
        seeds."""
        return self._of(Key(split, STANDARD, OWN, metric))

    def measured(self, split: str, protocol: str = STANDARD) -> list[str]:
        """Return the metrics that the row's own system has, or [] if the row was not run."""
        return self.scores.metrics(split, protocol) if self.scores else []

    def _of(self, key: Key) -> Value:
        if self.scores is None:
            return "not run"
        score = self.scores.get(key)
        if score is None:
            return None
        if estimate := self.estimates.get(key):
            return estimate
        return score.value if score.sd is None else Mean(score.value, score.sd)


def setting(
    corpus: str,
    scheme: str,
    captions: pd.DataFrame,
    references: dict[str, list[str]],
    language: str = ENGLISH,
) -> Setting:
    """Count the images and references of a corpus.

    Args:
        captions: image_id and split.
        references: image_id -> texts that its captions are scored against, for validation and test.

    Raises:
        UserError: an image has no references.
    """
    images, each = {}, {}
    shown = captions[captions["split"].isin(SPLITS)]
    need_references(shown["image_id"], references)
    for split, ids in shown.groupby("split")["image_id"]:
        counts = [len(references[image]) for image in ids.unique()]
        images[str(split)] = len(counts)
        each[str(split)] = (
            str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
        )
    return Setting(corpus, scheme, images, each, language)


class Files(NamedTuple):
    """The files in data/scores/<row> that tables need."""

    scores: Path
    about: Path
    resamples: Path
    "Resamples of the scores. Without this file, there are no intervals."

    @classmethod
    def of(cls, folder: Path) -> "Files":
        return cls(folder / "scores.csv", folder / "about.json", folder / "resamples.parquet")


class About(BaseModel):
    """The parts of about.json that tables need."""

    unavailable: dict[str, str] = {}
    commit: str | None = None


def results_of(params: Params, settings: dict[str, Setting], scores: Path) -> list[Result]:
    """Return every variant, the best of each corpus first, and then the baseline of every corpus.
    `scores` is data/scores."""
    rows = [
        variant_result(name, params, settings[variant.corpus], scores)
        for name, variant in params.variants.items()
    ]
    return in_order(rows + [baseline_result(setting, scores) for setting in settings.values()])


def variant_result(name: str, params: Params, setting: Setting, scores: Path) -> Result:
    variant, words = params.variants[name], params.training(name).vocabulary_splits
    note = "" if words == ["train"] else f"vocabulary counted over {', '.join(words)}; "
    paper = (variant.paper.table, variant.paper.system) if variant.paper else None
    notes = (note + " ".join(variant.notes.split())).removesuffix("; ")
    row = Result(
        name,
        setting,
        decoding_text(params.decoding(name)),
        None,
        paper=paper,
        notes=notes,
        data=data_set(params.datasets[params.corpora[variant.corpus].dataset]),
        pretrained=pretrained(params, name),
    )
    return _read(row, scores)


def baseline_result(setting: Setting, scores: Path) -> Result:
    return _read(Result(f"most-frequent--{setting.corpus}", setting, "", None), scores)


def _read(row: Result, scores: Path) -> Result:
    files = Files.of(scores / row.name)
    if not files.scores.is_file():
        return row
    table = ScoreTable.read(files.scores)
    estimates = read_estimates(files.resamples, table)
    return replace(row, scores=table, about=read_checked(files.about, About), estimates=estimates)


def as_json(row: Result) -> dict[str, Any]:
    """Return everything as JSON except the estimates, which are in the file of resamples."""
    out = asdict(replace(row, scores=None, estimates={}))
    del out["estimates"]
    return out | {"scores": row.scores.records() if row.scores else None}


class Line(BaseModel, extra="forbid"):
    """The form of what `as_json` returns."""

    name: str
    setting: Setting
    decoding: str
    scores: list[Score] | None
    about: dict[str, Any]
    paper: tuple[str, str] | None
    notes: str
    data: str = ""
    pretrained: tuple[str, ...] = ()


def from_json(data: dict[str, Any], resamples: Path) -> Result:
    """Restore a result from what `as_json` returned and its file of resamples."""
    scores = None if data["scores"] is None else ScoreTable.of_records(data["scores"])
    paper = tuple(data["paper"]) if data["paper"] else None
    fields = {**data, "setting": Setting(**data["setting"]), "paper": paper, "scores": scores}
    fields["pretrained"] = tuple(data.get("pretrained", ()))
    return Result(**fields, estimates=read_estimates(resamples, scores) if scores else {})


def in_order(results: list[Result]) -> list[Result]:
    """Sort results by corpus and test CIDEr, best first, with baselines at the end. Within a
    corpus, results without a score come last. The order does not need params.yaml."""

    def rank(r: Result) -> tuple[bool, str, bool, float, str]:
        score = number(r.value("test", "cider"))
        return not r.decoding, r.setting.corpus, score is None, -(score or 0.0), r.name

    return sorted(results, key=rank)
