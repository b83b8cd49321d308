"""Where a workspace keeps its files. Only stages/ and captionlab/ name them; the library takes
paths.

A constant is a folder with one entry per data set, corpus, feature set or variant; a function is
one file of an entry.
"""

from pathlib import Path

DATA = Path("data")
RAW = DATA / "raw"
"<dataset>/: shards/ of pictures and images.parquet, captions.parquet (as published), manifest.json"
CORPORA = DATA / "corpora"
"<corpus>/: captions.parquet, rejected.parquet, images.parquet"
VALIDATION = DATA / "validation"
"<corpus>/: results.json, and the data docs of Great Expectations"
REFERENCES = DATA / "references"
"<corpus>/: references.json, published.json, training_captions.json"
FEATURES = DATA / "features"
"<features>/: grid-*.npy and pooled-*.npy (what is kept), ids.parquet, manifest.json"
MODELS = Path("models")
"<variant>/: model.safetensors, config.json, tokenizer.json"
FURTHER_SEEDS = DATA / "seeds"
"<variant>/<seed>/: model folders of train.seeds after the first, each with its history.csv"
CHECKPOINTS = Path("checkpoints")
"""<variant>/: what an interrupted training resumes from, and cost.json, what the last one took; no
output of DVC"""
HISTORY = DATA / "history"
"<variant>.csv"
CAPTIONS = DATA / "captions"
"""<variant>/: captions.parquet, searches.parquet, seeds.parquet, teacher_forced.parquet,
attention.parquet"""
SCORES = DATA / "scores"
"""<variant>/: scores.csv (one long table: split, protocol, seed, metric, value, low, high, sd),
images.parquet, resamples.parquet, about.json"""
METRICS = DATA / "metrics"
"<variant>.json: the few scores that `dvc metrics` shows"
RUNS = DATA / "runs"
"<variant>.pending: what still has to be published to MLflow; no output of DVC"
REPORT = DATA / "report"
"tables/, figures/, validation/ and index.html, as `compare` makes them"
REPORTS = Path("reports")
"the same, as `publish` copies them for people; git keeps it"
PUBLISHED_REPORT = ("tables", "figures", "validation", "index.html")
TABLES = REPORTS / "tables"
RECEIPTS = REPORTS / "runs"
"<variant>/: receipt.json of what was published to MLflow, and a .gitignore that git keeps"
SPEED = REPORTS / "speed.json"
"what `captionlab speed` measured: an input of the report, {} where nothing was"
GRAPH = Path("dvc.yaml")
COPIES = Path(".dvc/tmp/exps")
"where `dvc exp run --temp` and `dvc queue start` copy the workspace to, and delete the copy"


def home() -> Path:
    """This workspace; in a temporary copy of an experiment, the workspace that was copied."""
    here = Path.cwd()
    return next((path for path in here.parents if here.is_relative_to(path / COPIES)), here)


def is_copy() -> bool:
    """Whether this is a temporary copy of an experiment."""
    return home() != Path.cwd()


def references(corpus: str) -> Path:
    """{image_id: [reference after the PTB tokenizer, ...]} of validation and test."""
    return REFERENCES / corpus / "references.json"


def published(corpus: str) -> Path:
    """{image_id: [reference as it was published, ...]} of validation and test."""
    return REFERENCES / corpus / "published.json"


def training_captions(corpus: str) -> Path:
    """The different training captions after the PTB tokenizer."""
    return REFERENCES / corpus / "training_captions.json"


def captions(variant: str) -> Path:
    """A caption per image of validation and test."""
    return CAPTIONS / variant / "captions.parquet"


def searches(variant: str) -> Path:
    """Captions by the searches that `decode.also` asks for."""
    return CAPTIONS / variant / "searches.parquet"


def seed_captions(variant: str) -> Path:
    """Captions of the models in data/seeds."""
    return CAPTIONS / variant / "seeds.parquet"


def teacher_forced(variant: str) -> Path:
    """Token ids of references, and the likeliest ids beside them."""
    return CAPTIONS / variant / "teacher_forced.parquet"


def attention(variant: str) -> Path:
    """Where the decoder looked, word by word, on the images of the report."""
    return CAPTIONS / variant / "attention.parquet"


def image_scores(variant: str) -> Path:
    """Scores per image, with columns protocol and seed."""
    return SCORES / variant / "images.parquet"


def history(variant: str) -> Path:
    """A row per epoch of training."""
    return HISTORY / f"{variant}.csv"


def metrics(variant: str) -> Path:
    """What `dvc metrics` shows."""
    return METRICS / f"{variant}.json"


def receipt(variant: str) -> Path:
    """What MLflow was told of a variant."""
    return RECEIPTS / variant / "receipt.json"
