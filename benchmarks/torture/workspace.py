"""The tiny workspace of the tests. Every stage has run once in forks of this process."""

import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from benchmarks.torture.isolation import start
from pipeline.core.stage import stage
from tests.tracking_workspace import lock_variant
from tests.workspace import ROOT, tiny_params, write_params

# The variant has two seeds.
VARIANT, CORPUS, DATASET, FEATURES = "lstm", "scenes", "scenes", "scenes-lite0"
STAGES = {
    "download": DATASET,
    "clean": CORPUS,
    "references": CORPUS,
    "extract": FEATURES,
    "train": VARIANT,
    "caption": VARIANT,
    "score": VARIANT,
    "baseline": CORPUS,
    "track": VARIANT,
    "compare": "",
    "publish": "",
}
IMPORTED = (
    *("captionlab.__main__", "captionlab.door", "captionlab.evaluation", "captionlab.plan"),
    *(
        "mlflow.pyfunc.scoring_server",
        "mlflow.store.tracking.sqlalchemy_store",
        "safetensors.torch",
    ),
    *("great_expectations", "matplotlib.figure", "timm", "torch.optim", "filelock", "tokenizers"),
    *("pipeline.report.page", "pipeline.report.charts", "pipeline.report.cost_table"),
    *("pipeline.report.latex", "pipeline.report.paper_tables", "pipeline.report.attention"),
    *("pipeline.report.gallery", "pipeline.report.results_table", "pipeline.training.setup"),
    *("pipeline.scoring.variant", "pipeline.scoring.baseline", "pipeline.extraction.extract"),
    *("pipeline.captioning.split", "pipeline.captioner.folder", "pipeline.captioner.captioner"),
    *("pipeline.cleaning.clean", "pipeline.cleaning.expectations", "pipeline.cleaning.data_docs"),
    *("pipeline.encoders.timm_model", "pipeline.tracking.pyfunc"),
    *("pipeline.decoders.lstm", "pipeline.decoders.merge", "pipeline.decoders.soft_attention"),
    *("pipeline.sources.scenes", "pipeline.sources.folder", "pipeline.metrics.bleu"),
    *("pipeline.metrics.cider", "pipeline.metrics.rouge_l", "pipeline.metrics.diversity"),
    *("pipeline.metrics.gender", "pipeline.metrics.degeneration", "pipeline.core.git"),
    *(f"stages.{name}" for name in STAGES),
)


def import_everything() -> None:
    """Import everything that a case needs, so that no fork imports it again. Nothing is run: a fork
    of a process that has run torch's threads hangs."""
    for name in IMPORTED:
        import_module(name)


def stage_call(name: str) -> Callable[[], None]:
    """Return a call that acts like `python -m stages.NAME` on this workspace's row."""
    row = STAGES[name]

    def call() -> None:
        sys.argv = [f"stages/{name}.py", *([row] if row else [])]
        stage(import_module(f"stages.{name}").main, named=bool(row))

    return call


def command_call(*arguments: str) -> Callable[[], None]:
    """Return a call that acts like `captionlab ARGUMENTS`."""

    def call() -> None:
        from captionlab.__main__ import main

        sys.argv = ["captionlab", *arguments]
        main()

    return call


def torture_params() -> dict[str, Any]:
    """Return the params of the tests with one variant of two seeds. It trains for two epochs, with
    batches of four images, and without a warm-up: stages warn of one that is too long."""
    params = tiny_params()
    params["variants"] = {VARIANT: params["variants"][VARIANT]}
    params["train"] |= {"epochs": 2, "batch_images": 4, "warmup_steps": 0}
    return params


def make(folder: Path, stages: tuple[str, ...] = tuple(STAGES)) -> dict[str, float]:
    """Run the stages one after another. Return the seconds of each.

    Raises:
        RuntimeError: A stage fails.
    """
    folder.mkdir(parents=True)
    write_params(folder, torture_params())
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / ".dvc/tmp").mkdir(parents=True)
    (folder / "reports").mkdir()
    shutil.copy(ROOT / "reports/speed.json", folder / "reports")
    took = {}
    for name in stages:
        if name == "track":
            lock(folder)
        done = start(stage_call(name), folder.parent / f"made-{name}", folder).wait(120)
        if done.status:
            raise RuntimeError(f"{name} of the tiny workspace: {done.status}\n{done.err}")
        took[name] = done.seconds
    return took


def lock(folder: Path) -> None:
    """Write the part of dvc.lock that `track` reads."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        lock_variant(folder, VARIANT)
    finally:
        os.chdir(before)


def inputs_of(folder: Path, name: str) -> list[Path]:
    """Return every file that dvc.yaml declares for a stage and that another stage has written."""
    rows = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    declared = rows[name].get("do", rows[name])["deps"]
    names = {"${key}": STAGES[name], "${item.corpus}": CORPUS, "${item.dataset}": DATASET}
    names["${item.features}"] = FEATURES
    found = []
    for dep in declared:
        for key, value in names.items():
            dep = dep.replace(key, value)
        if dep.startswith(("data/", "models/", "models", "reports/")):
            place = folder / dep
            found += [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    return sorted(found)


def copy(base: Path, folder: Path) -> Path:
    """Copy the workspace. Files are hard links, because stages and damage replace files and never
    write to them. The database is written in place, so it is copied."""

    def link(source: str, target: str) -> None:
        if Path(source).name.startswith("mlflow.db"):
            shutil.copyfile(source, target)
        else:
            os.link(source, target)

    shutil.copytree(base, folder, copy_function=link)
    return folder
