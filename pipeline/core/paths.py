"""Where a workspace keeps its files. Only stages/ and captionlab/ use these names; the library
takes paths as arguments.

A constant is a folder with one entry per data set, corpus, feature set or variant. A function
returns the path of one file of an entry.
"""

from pathlib import Path

DATA = Path("data")
RAW = DATA / "raw"
"<dataset>/: shards/ of pictures, images.parquet, captions.parquet (as published), manifest.json"
CORPORA = DATA / "corpora"
"<corpus>/: captions.parquet, rejected.parquet, images.parquet"
VALIDATION = DATA / "validation"
"<corpus>/: results.json and the Data Docs of Great Expectations"
REFUSED = Path(".dvc/tmp/captionlab/refused")
"""<corpus>/: rejected.parquet and index.html (all checks) of a corpus that `clean` refused; not a
DVC output"""
REFERENCES = DATA / "references"
"<corpus>/: references.json, published.json, training_captions.json"
FEATURES = DATA / "features"
"<features>/: grid-*.npy and pooled-*.npy (the parts that are kept), ids.parquet, manifest.json"
MODELS = Path("models")
"<variant>/: model.safetensors, config.json, tokenizer.json"
FURTHER_SEEDS = DATA / "seeds"
"<variant>/<seed>/: a model folder and its history.csv for each of train.seeds after the first"
CHECKPOINTS = Path("checkpoints")
"""<variant>/: the state from which an interrupted training resumes, and cost.json, the cost of the
last training; not a DVC output"""
HISTORY = DATA / "history"
"<variant>.csv: one row per epoch of training"
CAPTIONS = DATA / "captions"
"""<variant>/: captions.parquet, searches.parquet, seeds.parquet, teacher_forced.parquet,
attention.parquet"""
SCORES = DATA / "scores"
"""<variant>/: scores.csv (one long table: split, protocol, seed, metric, value, low, high, sd),
images.parquet, resamples.parquet, about.json"""
METRICS = DATA / "metrics"
"<variant>.json: the few scores that `dvc metrics` shows"
RUNS = DATA / "runs"
"<variant>.pending: what still has to be published to MLflow; not a DVC output"
REPORT = DATA / "report"
"tables/, figures/, validation/ and index.html, as the stage `compare` writes them"
REPORTS = Path("reports")
"the same files, which the stage `publish` copies here for people; git tracks them"
PUBLISHED_REPORT = ("tables", "figures", "validation", "index.html")
TABLES = REPORTS / "tables"
RECEIPTS = REPORTS / "runs"
"<variant>/: receipt.json, which records what was published to MLflow, and a tracked .gitignore"
SPEED = REPORTS / "speed.json"
"measurements of `captionlab speed`, an input of the report; {} if nothing was measured"
GRAPH = Path("dvc.yaml")
COPIES = Path(".dvc/tmp/exps")
"temporary copies of the workspace, made and deleted by `dvc exp run --temp` and `dvc queue start`"


def home() -> Path:
    """Return this workspace. In a temporary copy of an experiment, return the workspace that was
    copied."""
    here = Path.cwd()
    return next((path for path in here.parents if here.is_relative_to(path / COPIES)), here)


def is_copy() -> bool:
    """Return whether this is a temporary copy of an experiment."""
    return home() != Path.cwd()


def references(corpus: str) -> Path:
    """References after the PTB tokenizer, for validation and test: {image_id: [reference, ...]}."""
    return REFERENCES / corpus / "references.json"


def published(corpus: str) -> Path:
    """References as they were published, for validation and test: {image_id: [reference, ...]}."""
    return REFERENCES / corpus / "published.json"


def training_captions(corpus: str) -> Path:
    """The distinct training captions after the PTB tokenizer."""
    return REFERENCES / corpus / "training_captions.json"


def captions(variant: str) -> Path:
    """One caption per validation and test image."""
    return CAPTIONS / variant / "captions.parquet"


def searches(variant: str) -> Path:
    """Captions from the searches that `decode.also` asks for."""
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
    """One row per epoch of training."""
    return HISTORY / f"{variant}.csv"


def metrics(variant: str) -> Path:
    """The few scores that `dvc metrics` shows."""
    return METRICS / f"{variant}.json"


def receipt(variant: str) -> Path:
    """Record of what was published to MLflow for a variant."""
    return RECEIPTS / variant / "receipt.json"
