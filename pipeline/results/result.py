"""What a table is made of: the scores of each system with all that its row says. From the
workspace, or from JSON."""

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
    """What a corpus offers to score on."""

    corpus: str
    scheme: str
    "its split scheme"
    images: dict[str, int]
    references: dict[str, str]
    "split -> references per image, '5' or '3-5'"
    language: str = ENGLISH
    "of its captions"

    def about(self, split: str) -> str:
        each = f"{self.references.get(split, 'no')} references each"
        tokens = "" if self.language == ENGLISH else f", in {self.named}, {self.tokens}"
        return (
            f"corpus {self.corpus}, split '{self.scheme}': {self.images.get(split, 0)} "
            f"{SPLITS[split]} images, {each}{tokens}"
        )

    @property
    def named(self) -> str:
        """`Chinese`."""
        return find_language(self.language).name

    @property
    def tokens(self) -> str:
        """By which tokenizer its scores are."""
        return ABOUT[find_language(self.language).tokenizer]


@dataclass(frozen=True)
class Result:
    """One scored system: a variant, or a corpus's most-frequent-caption baseline (which decodes
    nothing)."""

    name: str
    setting: Setting
    decoding: str
    "as `decoding_text` says it; '' for the baseline"
    scores: ScoreTable | None
    "scores.csv of data/scores/<name>; None: not run"
    about: dict[str, Any] = field(default_factory=dict)
    "about.json there: commit, seeds (none of the baseline), clip, unavailable"
    paper: tuple[str, str] | None = None
    "table and system of papers.yaml"
    notes: str = ""
    estimates: dict[Key, Estimate] = field(default_factory=dict)
    "empty where nothing was resampled"
    data: str = ""
    "as `data_set` says it; '' for the baseline, and for rows that were published without it"
    pretrained: tuple[str, ...] = ()
    "models, by their names in params.yaml"

    @property
    def label(self) -> str:
        return self.name if self.decoding else "most frequent caption"

    def value(self, split: str, metric: str, protocol: str = STANDARD) -> Value:
        """Under `standard`, the mean over training seeds; under others that of the first seed's
        model.

        None: it has none, which under `standard` is so as soon as one of the seeds has none.
        """
        if metric in FACTS:
            return str(self.about.get(metric) or "n/a") if self.scores is not None else "not run"
        if protocol != STANDARD:
            return self._of(Key(split, protocol, OWN, metric))
        mean = self._of(Key(split, STANDARD, MEAN, metric))
        return self.own(split, metric) if mean is None and self.about.get("seeds", 1) == 1 else mean

    def own(self, split: str, metric: str) -> Value:
        """Under `standard`, of the first seed's model, whatever further seeds there are."""
        return self._of(Key(split, STANDARD, OWN, metric))

    def measured(self, split: str, protocol: str = STANDARD) -> list[str]:
        """Metrics of the row's own system; [] of a row that was not run."""
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
    """Args:
    captions: image_id and split.
    references: image_id -> what its captions are scored against, for validation and test.

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
    """The files of one row that tables are made of, in data/scores/<row>."""

    scores: Path
    about: Path
    resamples: Path
    "without it there are no intervals"

    @classmethod
    def of(cls, folder: Path) -> "Files":
        return cls(folder / "scores.csv", folder / "about.json", folder / "resamples.parquet")


class About(BaseModel):
    """about.json, as far as tables need it."""

    unavailable: dict[str, str] = {}
    commit: str | None = None


def results_of(params: Params, settings: dict[str, Setting], scores: Path) -> list[Result]:
    """Every variant, the best first, then the baseline of every corpus. `scores` is data/scores."""
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
    """All but the estimates, which are the file of resamples."""
    out = asdict(replace(row, scores=None, estimates={}))
    del out["estimates"]
    return out | {"scores": row.scores.records() if row.scores else None}


class Line(BaseModel, extra="forbid"):
    """What `as_json` gives."""

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
    """What `as_json` wrote, with its file of resamples."""
    scores = None if data["scores"] is None else ScoreTable.of_records(data["scores"])
    paper = tuple(data["paper"]) if data["paper"] else None
    fields = {**data, "setting": Setting(**data["setting"]), "paper": paper, "scores": scores}
    fields["pretrained"] = tuple(data.get("pretrained", ()))
    return Result(**fields, estimates=read_estimates(resamples, scores) if scores else {})


def in_order(results: list[Result]) -> list[Result]:
    """The best test CIDEr first, what was not run and the baselines at the end: an order that needs
    no params.yaml."""

    def rank(r: Result) -> tuple[bool, str, bool, float, str]:
        score = number(r.value("test", "cider"))
        return not r.decoding, r.setting.corpus, score is None, -(score or 0.0), r.name

    return sorted(results, key=rank)
