"""Where the workspace keeps things. Only stages/ and cli.py use these names; the library takes paths."""

from pathlib import Path

RAW = Path("data/raw")
"data/raw/<dataset>/: images/, captions.parquet (as published), manifest.json"
CORPORA = Path("data/corpora")
"data/corpora/<corpus>/: captions.parquet, rejected.parquet"
REFERENCES = Path("data/references")
"data/references/<corpus>.json: references of val and test after the PTB tokenizer"
TRAINING_CAPTIONS = Path("data/training_captions")
"data/training_captions/<corpus>.json: the different training captions after the PTB tokenizer"
FEATURES = Path("data/features")
"data/features/<features>/: grid.npy, pooled.npy, ids.parquet, manifest.json"
MODELS = Path("models")
"models/<variant>/: model.safetensors, config.json, tokenizer.json"
CHECKPOINTS = Path("checkpoints")
"checkpoints/<variant>/: what an interrupted training resumes from; no output of DVC"
CAPTIONS = Path("data/captions")
"data/captions/<variant>.parquet"
SCORES = Path("data/scores")
"data/scores/<variant>.parquet: per image"
REPORTS = Path("reports")
VALIDATION = REPORTS / "validation"
"reports/validation/<corpus>.json, and data docs in <corpus>/"
HISTORY = REPORTS / "history"
"reports/history/<variant>.csv"
SCORE_FILES = REPORTS / "scores"
"reports/scores/<variant>.json"
RUNS = REPORTS / "runs"
"reports/runs/<variant>.json: the receipt of what was published to MLflow"
TABLES = REPORTS / "tables"
