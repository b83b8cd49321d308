"""Where the workspace keeps things. Only stages/ and commands/ use these names; the library takes paths."""

from pathlib import Path

RAW = Path("data/raw")
"data/raw/<dataset>/: images/, captions.parquet (as published), manifest.json"
CORPORA = Path("data/corpora")
"data/corpora/<corpus>/: captions.parquet, rejected.parquet, images.parquet"
REFERENCES = Path("data/references")
"data/references/<corpus>.json: references of val and test after the PTB tokenizer"
PUBLISHED = Path("data/published")
"data/published/<corpus>.json: the same references as they were published"
TRAINING_CAPTIONS = Path("data/training_captions")
"data/training_captions/<corpus>.json: the different training captions after the PTB tokenizer"
FEATURES = Path("data/features")
"data/features/<features>/: grid.npy, pooled.npy, ids.parquet, manifest.json"
MODELS = Path("models")
"models/<variant>/: model.safetensors, config.json, tokenizer.json"
FURTHER_SEEDS = Path("data/seeds")
"data/seeds/<variant>/<seed>/: model folders of train.seeds after the first, each with its history.csv"
CHECKPOINTS = Path("checkpoints")
"checkpoints/<variant>/: what an interrupted training resumes from; no output of DVC"
CAPTIONS = Path("data/captions")
"data/captions/<variant>.parquet"
SEARCHES = CAPTIONS / "searches"
"data/captions/searches/<variant>.parquet: what decode.also asks for"
TEACHER_FORCED = CAPTIONS / "teacher_forced"
"data/captions/teacher_forced/<variant>.parquet: token ids of references, and argmax beside them"
SEED_CAPTIONS = CAPTIONS / "seeds"
"data/captions/seeds/<variant>.parquet: captions of the models in data/seeds"
ATTENTION = Path("data/attention")
"data/attention/<variant>.parquet: where its decoder looked, word by word, on the images of the report"
SCORES = Path("data/scores")
"data/scores/<variant>.parquet: per image; resamples/<variant>.parquet; about/<variant>.json: what is no number"
REPORTS = Path("reports")
VALIDATION = Path("data/validation")
"data/validation/<corpus>.json, and data docs in <corpus>/"
HISTORY = Path("data/history")
"data/history/<variant>.csv"
SCORE_FILES = SCORES
"data/scores/<variant>.json: all scores"
METRICS = Path("data/metrics")
"data/metrics/<variant>.json: the few that `dvc metrics` shows"
RUNS = Path("data/runs")
"data/runs/<variant>.json: the receipt of what was published to MLflow"
SPEED = REPORTS / "speed.json"
"what `captionlab speed` measured: an input of the report, {} where nothing was"
REPORT = Path("data/report")
"data/report/: tables, figures, index.html and validation, as `compare` makes them"
PUBLISHED_REPORT = ("tables", "figures", "validation", "index.html")
"of data/report/, what `publish` puts into reports/, which git keeps"
TABLES = REPORTS / "tables"
GRAPH = Path("dvc.yaml")
