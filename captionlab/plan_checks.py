"""Find what is wrong with an experiment before anything runs, beyond wrong keys and names.

Examples are missing files, split schemes that a source does not have, and shares that leave no
images to train.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.core.separators import check_separator

if TYPE_CHECKING:
    from pipeline.experiment.params import Dataset, Params

# Source -> the split schemes that it may have. karpathy needs the source's argument `karpathy`.
# A source that is not listed is not checked.
SCHEMES = {
    "a3ds": ["random"],
    "coco2014": ["official", "karpathy"],
    "flickr30k": ["last", "karpathy"],
    "flickr8k": ["official", "last", "karpathy"],
    "folder": ["official", "random"],
    "hugging_face": ["official", "random"],
    "scenes": ["official"],
    "webdataset": ["random"],
}
# The timm model whose weights an installed package brings.
PACKAGED = "tf_efficientnet_lite0"
# Suffixes of caption files that the source `folder` reads.
CAPTION_FILES = (".csv", ".tsv", ".jsonl", ".parquet", ".json")


def problems(params: "Params", features: list[str]) -> list[str]:
    """Return all problems, one line each, with the cure.

    Args:
        features: names of the feature sets whose model exists.
    """
    out = [problem for name, row in params.datasets.items() for problem in _dataset(name, row)]
    for name, corpus in params.corpora.items():
        out += _scheme(f"corpora.{name}.split", corpus.split, params.datasets[corpus.dataset])
    for name in features:
        if params.features[name].encoder == "timm_model":
            out += _weights(f"features.{name}.args.weights", **params.features[name].args)
    return out + list(_metrics(params))


def small_splits(params: "Params", images: dict[str, int]) -> Iterator[str]:
    """Yield the random splits of a folder that must be smaller than the corpus allows.

    Args:
        images: number of pictures by data set; 0 if it is not known.
    """
    for name, corpus in params.corpora.items():
        row, count = params.datasets[corpus.dataset], images[corpus.dataset]
        if row.source != "folder" or corpus.split != "random":
            continue
        for split in ("val", "test"):
            held_out = round(row.args.get(split, 0.1) * count)
            if count and held_out < corpus.min_images_per_split:
                yield (
                    f"corpora.{name}: {split} has {held_out} of {count} images, "
                    f"min_images_per_split is {corpus.min_images_per_split}: lower it, or raise "
                    f"datasets.{corpus.dataset}.args.{split}"
                )


def _dataset(name: str, row: "Dataset") -> Iterator[str]:
    where, args = f"datasets.{name}.args", row.args
    if row.source == "folder" and args.get("captions"):
        yield from _captions(f"{where}.captions", args)
    if row.source in ("folder", "hugging_face", "webdataset"):
        val, test = args.get("val", 0.1), args.get("test", 0.1)
        if val + test >= 1:
            yield (
                f"{where}: val {val} and test {test} leave no images to train: give shares of "
                "less than 1 in all"
            )
    karpathy = args.get("karpathy", "")
    if karpathy not in ("", "download") and not Path(karpathy).expanduser().is_file():
        yield f"{where}.karpathy: {karpathy} is not there: name a file, or write download"
    archives = args.get("archives", "")
    if archives and not Path(archives).expanduser().is_dir():
        yield f"{where}.archives: {archives} is not a folder: name one, or leave archives out"


def _captions(where: str, args: dict[str, Any]) -> Iterator[str]:
    root = Path(args.get("path", "")).expanduser()
    file = root / Path(args["captions"]).expanduser()
    if root.is_dir() and not file.is_file():  # the source reports a missing folder
        cure = "name a file, or null for .txt files"
        yield f"{where}: {file} is not there: {cure} ({', '.join(CAPTION_FILES)})"
    elif file.is_file() and file.suffix.lower() not in CAPTION_FILES:
        yield f"{where}: {file} is of an unknown format: give {', '.join(CAPTION_FILES)}"
    elif file.suffix.lower() in (".csv", ".tsv") and file.is_file():
        columns = [args.get(f"{name}_column", name) for name in ("image", "caption", "split")]
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from _complaints(where, file, lines.readline(), columns)


def _has_splits(args: dict[str, Any]) -> bool:
    """Return whether the captions of a folder have a column of splits. Only the first line of a
    table is read; other formats count as having one."""
    captions = Path(args.get("captions") or "").expanduser()
    file = Path(args.get("path", "")).expanduser() / captions
    separator = {".csv": ",", ".tsv": "\t"}.get(file.suffix.lower())
    if separator is None or not file.is_file():
        return True
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(csv.reader(lines, delimiter=separator), [])
    return args.get("split_column", "split") in [name.strip() for name in header]


def _complaints(where: str, file: Path, header: str, columns: list[str]) -> Iterator[str]:
    try:
        check_separator(file, header, columns)
    except UserError as error:
        yield f"{where}: {error}"


def _scheme(where: str, split: str, dataset: "Dataset") -> Iterator[str]:
    known = SCHEMES.get(dataset.source, [split])
    there = [name for name in known if name != "karpathy" or dataset.args.get("karpathy")]
    if split == "official" and dataset.source == "folder" and not _has_splits(dataset.args):
        yield (
            f"{where}: official needs a column '{dataset.args.get('split_column', 'split')}' in "
            f"{dataset.args.get('captions')}: add it, or write random"
        )
    if split == "karpathy" and split in known and split not in there:
        yield (
            f"{where}: karpathy needs the argument karpathy of {dataset.source}: write "
            "args: {karpathy: download}"
        )
    elif split not in there:
        near = nearest(split, there)
        yield (
            f"{where}: '{split}' is no split scheme of {dataset.source}{near}: there are "
            f"{', '.join(there)}"
        )


def _weights(where: str, *, model: str, weights: str, **_: Any) -> Iterator[str]:
    if weights == "package" and model != PACKAGED:
        yield (
            f"{where}: no installed package has weights for '{model}': there is one for "
            f"{PACKAGED}; write hub or a file"
        )
    elif weights not in ("hub", "package", "random") and not Path(weights).is_file():
        near = nearest(weights, ["hub", "package", "random"])
        yield (
            f"{where}: there is no file '{weights}'{near}: name one, or write hub, package or "
            "random"
        )


def _metrics(params: "Params") -> Iterator[str]:
    chair = params.scoring.chair
    if chair and "chair" in params.scoring.metrics:
        for key, files in (("synonyms", [chair.synonyms]), ("instances", chair.instances)):
            for file in files:
                if not Path(file).is_file():
                    yield f"scoring.chair.{key}: {file} is not there: name a file of COCO's {key}"
