"""All scores of a variant: under the standard protocol and the protocols of its papers, with the
spread over training seeds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import UserError
from pipeline.core.registry import load
from pipeline.data.checked import need_references, read_table, readable
from pipeline.data.corpus import read_captions
from pipeline.data.shards import Member, Shards
from pipeline.experiment.protocols import STANDARD, Protocol, find_protocol, tokenise
from pipeline.languages.languages import ENGLISH
from pipeline.metrics.shared.base import Candidates, References
from pipeline.metrics.shared.languages import WORDS, not_for
from pipeline.results.scores import MEAN, OWN
from pipeline.scoring.bootstrap import resample
from pipeline.scoring.row import ScoredRow
from pipeline.scoring.score import Scored, score_captions
from pipeline.scoring.teacher_forced import teacher_forced_sums
from pipeline.scoring.tokens import token_lines, tokenised

# Metrics that are also scored under protocols other than the standard one.
N_GRAMS = ("bleu", "meteor", "rouge_l", "cider", "chrf")
NO_SEARCH = pd.DataFrame(columns=["search", "image_id", "split", "text"])


@dataclass(frozen=True)
class Said:
    """The captions of a variant, in the tables that the caption stage writes."""

    captions: pd.DataFrame
    searches: pd.DataFrame
    teacher_forced: pd.DataFrame
    seeds: pd.DataFrame
    sets: Mapping[str, list[str]] = field(default_factory=dict)
    "All captions that were kept of each image, by image_id. Empty unless a metric needs them."

    @classmethod
    def read(cls, files: list[Path], protocols: list[str], metrics: Iterable[str] = ()) -> "Said":
        """Read the tables of a variant.

        Teacher-forced ids are read only if a protocol scores them, and alternatives only if a
        metric does.

        Args:
            files: the files of the four tables, in the order of the fields.
        """
        captions, searches, teacher_forced, seeds = files
        forced = any(find_protocol(name).captions == "argmax" for name in protocols)
        wanted = ["image_id", "split", "reference", "argmax"]
        ids = (
            _filled(read_table(teacher_forced, wanted), teacher_forced)
            if forced
            else pd.DataFrame()
        )
        sets = read_sets(captions) if any(map(needs_sets, metrics)) else {}
        own = _filled(read_said(captions), captions)
        said = cls(own, read_said(searches), ids, read_said(seeds), sets)
        for search in {find_protocol(name).captions for name in protocols} - {"argmax"}:
            if search not in said.tables:
                raise UserError(f"{searches} has no captions of '{search}': run dvc repro")
        return said

    @classmethod
    def of_baseline(cls, captions: pd.DataFrame) -> "Said":
        """Return captions that no model made."""
        return cls(captions, NO_SEARCH, pd.DataFrame(), captions.assign(seed=0).iloc[:0])

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Name -> table: `own`, one table per search, and one per further seed."""
        out = {"own": self.captions}
        out |= {str(name): rows for name, rows in self.searches.groupby("search", sort=False)}
        return out | {self.further[str(seed)]: rows for seed, rows in self.seeds.groupby("seed")}

    @cached_property
    def further(self) -> dict[str, str]:
        """Further seed -> name of its table."""
        return {str(seed): f"seed {seed}" for seed in sorted(self.seeds["seed"].unique())}

    def tokenised(self, language: str) -> dict[str, Candidates]:
        """Tokenise all tables in one call, because starting Java takes longer than tokenising."""
        texts = (text for rows in self.tables.values() for text in rows.text)
        lines = iter(token_lines(texts, language))
        return {
            name: dict(zip(rows.image_id, lines, strict=False))
            for name, rows in self.tables.items()
        }


def _filled(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the table of a file, which must have rows."""
    if table.empty:
        raise UserError(f"{path} has no rows: run dvc repro")
    return table


def read_said(path: Path) -> pd.DataFrame:
    """Read a table of captions without its alternatives, which are not scored here. As Python lists
    of dicts, they would be most of the table."""
    from pyarrow.parquet import read_schema

    with readable(path):
        names = read_schema(path).names
    wanted = dict.fromkeys(["image_id", "split", "text", *names])
    return read_table(path, [name for name in wanted if name != "alternatives"])


def needs_sets(metric: str) -> bool:
    return getattr(load("metrics", metric), "NEEDS_SETS", False)


def read_sets(path: Path) -> dict[str, list[str]]:
    """Return image_id -> its alternatives, starting with the caption itself."""
    table = read_table(path, ["image_id", "alternatives"])
    kept = zip(table["image_id"], table["alternatives"], strict=True)
    return {image: [one["text"] for one in several] for image, several in kept}


@dataclass(frozen=True)
class Known:
    """What captions of a corpus are scored against."""

    references: References
    "References as tokens (`token_lines`)."
    published: References
    "References as they were published."
    training: Iterable[str]
    "Training captions as tokens."
    images: Mapping[str, Member] = field(default_factory=dict)
    "Pictures by image_id."
    clip: dict[str, Any] | None = None
    "Arguments of the encoder that clip_score uses."
    language: str = ENGLISH
    "Language of the corpus."
    chair: dict[str, Any] | None = None
    "Files that the metric chair needs."

    @property
    def more(self) -> dict[str, tuple[Any, ...]]:
        """Further arguments of metrics, in addition to captions and references."""
        return {"clip_score": (self.images, self.clip), "chair": (self.chair,)}

    def clip_model(self, metrics: list[str]) -> str | None:
        """Return the CLIP model that these metrics use, or None if none of them uses one."""
        return (self.clip or {}).get("model") if "clip_score" in metrics else None


def pictures_needed(metrics: list[str], captions: Path, raw: Path) -> dict[str, Member]:
    """Return image_id -> picture of a corpus if one of the metrics needs pictures.

    Otherwise the result is {}, because a corpus may be large.

    Args:
        captions: the captions.parquet of the corpus.
        raw: the folder of its dataset.
    """
    if not any(getattr(load("metrics", name), "NEEDS_IMAGES", False) for name in metrics):
        return {}
    return Shards(raw).find(read_captions(captions, ["image_id"])["image_id"].unique().tolist())


def score_variant(said: Said, known: Known, metrics: list[str], protocols: list[str]) -> ScoredRow:
    """Score a variant under `standard` and under each of `protocols`.

    Further seeds are scored only under `standard`, together with the mean over all trainings.
    """
    for metric in (load("metrics", name) for name in metrics):
        if not not_for(getattr(metric, "READS", WORDS), known.language):
            getattr(metric, "prepare", bool)()  # slow helpers start while the tokenizer runs
    for references in (known.references, *([known.published] if protocols else [])):
        need_references(said.captions["image_id"], references)
    tokens = said.tokenised(known.language)
    training = {text for of_table in tokens.values() for text in of_table.values()}.intersection(
        known.training
    )

    more = {**known.more, "self_cider": (_sets(said, known.language),)}

    def standard(table: str) -> Scored:
        asked = [m for m in metrics if (table == "own" and said.sets) or not needs_sets(m)]
        against = known.references, asked, training, more, known.language
        return score_captions(said.tables[table], tokens[table], *against)

    parts = {(STANDARD, OWN): standard("own")}
    for name in protocols:
        n_grams = [m for m in metrics if m in N_GRAMS]
        parts[name, OWN] = _under(find_protocol(name), said, tokens, known, n_grams)
    further = {(STANDARD, seed): standard(table) for seed, table in said.further.items()}
    parts |= further
    if further:
        parts[STANDARD, MEAN] = _mean([parts[STANDARD, OWN], *further.values()])
    return ScoredRow(parts)


def _sets(said: Said, language: str) -> dict[str, list[str]]:
    return tokenised(said.sets, language) if said.sets else {}


def _under(
    protocol: Protocol,
    said: Said,
    tokens: dict[str, Candidates],
    known: Known,
    metrics: list[str],
) -> Scored:
    """Score a variant's own system under another protocol.

    Args:
        tokens: the captions as tokens of the standard protocol.
    """
    if protocol.captions == "argmax":
        return _teacher_forced(said)
    rows = said.tables[protocol.captions][["image_id", "split", "text"]]
    if protocol.tokens == "ptb":
        candidates = tokens[protocol.captions]
        return score_captions(rows, candidates, known.references, metrics, language=known.language)
    candidates = {
        i: tokenise(text, protocol.tokens) for i, text in zip(rows.image_id, rows.text, strict=True)
    }
    references = _Tokenised(known.published, protocol.tokens)
    return score_captions(rows, candidates, references, metrics, language=known.language)


@dataclass(frozen=True)
class _Tokenised(Mapping[str, list[str]]):
    """References as published, tokenised on access."""

    published: References
    tokens: str

    def __getitem__(self, image: str) -> list[str]:
        return [tokenise(text, self.tokens) for text in self.published[image]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.published)

    def __len__(self) -> int:
        return len(self.published)


def _teacher_forced(said: Said) -> Scored:
    out = Scored({}, {}, pd.DataFrame(columns=["image_id", "split"]), {}, {})
    for name, rows in said.teacher_forced.groupby("split", sort=True):
        sums = teacher_forced_sums(rows)
        out.images[str(name)] = sorted(rows.image_id.unique())
        out.summary[str(name)] = {
            score: float(v) for score, v in sums.score(sums.statistics.sum(0)).items()
        }
        out.resamples[str(name)] = resample([sums], len(sums.statistics))
    return out


def _mean(trainings: list[Scored]) -> Scored:
    """Return the mean and standard deviation (n - 1) of every score that all trainings have."""
    out = Scored({}, {}, pd.DataFrame(), {}, trainings[0].images)
    for split in trainings[0].summary:
        scores = [t.summary[split] for t in trainings]
        names = _shared(scores)
        out.summary[split] = {n: float(np.mean([s[n] for s in scores])) for n in names}
        out.sd[split] = {n: float(np.std([s[n] for s in scores], ddof=1)) for n in names}
        drawn = [t.resamples[split] for t in trainings]
        out.resamples[split] = {n: np.mean([d[n] for d in drawn], axis=0) for n in _shared(drawn)}
    return out


def _shared(scores: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the names that all have, in the order of the first. The order of a set would change
    from run to run."""
    return [name for name in scores[0] if all(name in other for other in scores)]
