"""Read the two systems that `captionlab compare` compares: rows of the workspace, or caption files.

Two rows are compared by their scores in the workspace, which are those of its tables. If one of the
two is a file, both are scored again.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from captionlab.caption_sets import COMPARE, read_both
from captionlab.evaluation import Evaluation, evaluate
from pipeline.core import paths
from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.data.files import fingerprint
from pipeline.experiment.protocols import STANDARD
from pipeline.languages.languages import ENGLISH

if TYPE_CHECKING:
    from pipeline.data.shards import Member
    from pipeline.experiment.params import Params
    from pipeline.results.result import Result

# What the name of a picture's file may add to the id of its image.
SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True)
class Asked:
    """How to score files. None means the workspace's own value, or else the default."""

    metrics: str | None = None
    protocol: str = STANDARD
    language: str | None = None
    split: str | None = None
    partial: bool = False
    pictures: Path | None = None
    "Folder of picture files that are named by the id of their image."


@dataclass(frozen=True)
class Pair:
    """Two systems on the same images."""

    names: tuple[str, str]
    scored: tuple[Evaluation, Evaluation]
    texts: tuple[Mapping[str, str], Mapping[str, str]]
    "image_id -> caption, for each of the two systems."
    references: Mapping[str, list[str]]
    "image_id -> references, as published."
    pictures: Mapping[str, "Path | Member"] = field(default_factory=dict)
    "image_id -> file of the picture, or its place in a shard, if known."


def read_pair(one: str, other: str, references: Path | None, asked: Asked) -> Pair:
    """Read two systems with their scores.

    Args:
        one, other: names of rows, or files of captions.
        references: file of references; required if both are files.

    Raises:
        UserError: a name is neither a row nor a file; two rows have different corpora; two files
            lack references; or `evaluate` refuses something.
    """
    params = _params()
    rows = [name for name in (one, other) if _is_row(name, params)]
    if params and len(rows) == 2:
        _check_corpora(one, other, _corpora(params))
    as_stored = references is None and asked.metrics is None and asked.protocol == STANDARD
    if params and len(rows) == 2 and as_stored:
        return _of_workspace(one, other, params, asked.split or "test")
    return _scored(one, other, references, asked, params, rows)


def _params() -> "Params | None":
    if not Path("params.yaml").is_file():
        return None
    from pipeline.experiment.params import load_params

    return load_params()


def _corpora(params: "Params") -> dict[str, str]:
    """Return row -> its corpus, including baselines."""
    rows = {name: variant.corpus for name, variant in params.variants.items()}
    return rows | {f"most-frequent--{corpus}": corpus for corpus in params.corpora}


def _check_corpora(one: str, other: str, corpora: dict[str, str]) -> None:
    if corpora[one] != corpora[other]:
        raise UserError(
            f"'{one}' is of corpus '{corpora[one]}' and '{other}' of '{corpora[other]}': compare "
            "rows of one corpus"
        )


def _is_row(name: str, params: "Params | None") -> bool:
    if Path(name).is_file():
        return False
    rows = _corpora(params) if params else {}
    if name not in rows and not Path(name).suffix:
        known = f": the rows are {', '.join(rows)}" if rows else ": this folder has no params.yaml"
        near = nearest(name, rows)
        raise UserError(f"'{name}' is neither a file nor a row of params.yaml{near}{known}")
    return name in rows


def _of_workspace(one: str, other: str, params: "Params", split: str) -> Pair:
    from pipeline.results.result import Setting, results_of

    corpus = _corpora(params)[one]
    options = params.corpora[corpus]
    setting = Setting(corpus, options.split, {}, {}, options.language)
    known = {
        r.name: r for r in results_of(params, dict.fromkeys(params.corpora, setting), paths.SCORES)
    }
    texts = said_by(one, split), said_by(other, split)
    return Pair(
        (one, other),
        (_stored(known[one], split), _stored(known[other], split)),
        texts,
        _published(corpus, texts[0]),
        _pictures_of(params, corpus, texts[0]),
    )


def said_by(row: str, split: str) -> dict[str, str]:
    """Return image_id -> caption, for a row of the workspace.

    Raises:
        UserError: the row has no captions of this split.
    """
    from pipeline.data.checked import read_table

    table = read_table(paths.captions(row), ["image_id", "split", "text"])
    table = table[table["split"] == split]
    if table.empty:
        raise UserError(f"'{row}' has no captions of split '{split}': there are val and test")
    return dict(zip(table["image_id"], table["text"], strict=True))


def _stored(row: "Result", split: str) -> Evaluation:
    """Return the row's scores as in the tables: means over seeds if there are several."""
    from pipeline.results.estimates import Estimate
    from pipeline.results.scores import read_image_scores
    from pipeline.results.values import number

    values = {metric: row.value(split, metric) for metric in row.measured(split)}
    estimates = {name: value for name, value in values.items() if isinstance(value, Estimate)}
    if row.scores is None or not estimates:
        raise UserError(f"'{row.name}' has not been scored: run dvc repro score@{row.name}")
    per_image = read_image_scores(paths.image_scores(row.name))
    per_image = per_image[per_image["split"] == split].drop(columns="split")
    return Evaluation(
        protocol=STANDARD,
        images=len(per_image),
        left_out=0,
        without_references=0,
        references_per_image="",
        scores={name: n for name, value in values.items() if (n := number(value)) is not None},
        intervals={name: estimate.interval for name, estimate in estimates.items()},
        unavailable=row.about.get("unavailable", {}),
        missing={},
        per_image=per_image.reset_index(drop=True),
        resamples={name: estimate.resamples for name, estimate in estimates.items()},
        content=fingerprint(
            [row.setting.corpus, split, {e.images for e in estimates.values()}.pop()]
        ),
        language=row.setting.language,
    )


def _pictures_of(params: "Params", corpus: str, images: Collection[str]) -> "dict[str, Member]":
    """Return the known pictures of these images.

    There are none if the data set is not here, as in a clone that has only the captions.
    """
    from pipeline.data.shards import INDEX, Shards

    folder = paths.RAW / params.corpora[corpus].dataset
    return Shards(folder).find(images) if (folder / INDEX).is_file() else {}


def _scored(
    one: str,
    other: str,
    references: Path | None,
    asked: Asked,
    params: "Params | None",
    rows: list[str],
) -> Pair:
    corpus = _corpora(params)[rows[0]] if params and rows else ""
    if references is None and not corpus:
        raise UserError("two files of captions need references: name their file as the third")
    said = {name: said_by(name, asked.split or "test") for name in rows}
    sources = [said.get(name, Path(name)) for name in (one, other)]
    meant = references or _published(corpus, said[rows[0]])
    language = asked.language or (params.corpora[corpus].language if params and corpus else ENGLISH)
    split = asked.split if references else None  # a row has chosen its images already
    scored = [
        evaluate(
            source,
            meant,
            asked.metrics,
            asked.protocol,
            split=split,
            partial=asked.partial,
            language=language,
            caller=COMPARE,
        )
        for source in sources
    ]
    both = [read_both(source, meant, split, asked.partial, COMPARE) for source in sources]
    known = both[0][1]
    pictures = _pictures_of(params, corpus, known) if params and corpus else {}
    found: dict[str, Path | Member] = {**pictures, **_pictures_in(asked.pictures, known)}
    return Pair((one, other), (scored[0], scored[1]), (both[0][0], both[1][0]), known, found)


def _published(corpus: str, images: Iterable[str]) -> dict[str, list[str]]:
    from pipeline.data.checked import read_texts

    known = read_texts(paths.published(corpus))
    return {image: known[image] for image in images}


def _pictures_in(folder: Path | None, images: Mapping[str, object]) -> dict[str, Path]:
    """Return image_id -> file, for the images whose picture is in the folder.

    Raises:
        UserError: the folder is not there.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UserError(
            f"{folder} (--pictures) is not a folder: name the one that holds the pictures"
        )
    found = {image: (folder / f"{image}{suffix}" for suffix in SUFFIXES) for image in images}
    there = {image: next(filter(Path.is_file, files), None) for image, files in found.items()}
    return {image: file for image, file in there.items() if file}
