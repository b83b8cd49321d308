"""Check that this machine can hold an experiment: the memory of each row, the disk space of all."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from captionlab.plan import Grid, Plan, Row
from pipeline.captioning.footprint import Footprint, of_captioning, widest
from pipeline.core import paths
from pipeline.core.capacity import disk_problem, memory_problem
from pipeline.core.machine import pick_device
from pipeline.training.footprint import FLOAT32, of_training, step_key

if TYPE_CHECKING:
    from pipeline.experiment.params import Params

# Tokens per image, assumed before captions have been cleaned: five captions of ten words.
TOKENS = 5 * 11.0


def problems(params: "Params", plan: Plan) -> list[str]:
    """Return one line for each part that does not fit, with the key that would make it fit."""
    device = pick_device()
    rows = (row for row in plan.rows if not row.lacks)
    found = [problem for row in rows for problem in _memory(params, row, plan.grids, device)]
    return [problem for problem in [*found, _disk(plan)] if problem]


def _memory(
    params: "Params", row: Row, grids: dict[str, Grid], device: str
) -> Iterator[str | None]:
    model, options, decode = row.model, params.training(row.name), params.decoding(row.name)
    if model.trainable:
        held = model.footprint.weights // FLOAT32 if model.footprint else 0  # some are bfloat16
        weights = model.trainable, max(0, held - model.trainable)
        tokens = _tokens(paths.CORPORA / params.variants[row.name].corpus / "captions.parquet")
        numbers = grids[params.variants[row.name].features].numbers()
        step = partial(of_training, weights, options, tokens, model.words, numbers)
        key, images = step_key(options)
        yield memory_problem(f"training {row.name}", step, images, key, device)
    key, width = widest(decode)
    search = partial(of_captioning, model.footprint or Footprint(), model.words, decode)
    yield memory_problem(f"captioning {row.name}", search, width, f"decode.{key}", device)


def _tokens(captions: Path) -> float:
    """Return the mean number of tokens per image of the training split."""
    from pipeline.data.corpus import Captions

    if not captions.is_file():
        return TOKENS
    images: set[str] = set()
    tokens = 0
    for rows in Captions(captions, ["train"], ["image_id", "text"]):
        images.update(rows["image_id"])
        tokens += int(rows["text"].str.count(" ").sum()) + 2 * len(rows)
    return tokens / max(1, len(images))


def _disk(plan: Plan) -> str | None:
    """Return why the disk cannot hold the missing data sets, features and models, or None."""
    need = sum(size.disk for name, size in plan.sizes.items() if not (paths.RAW / name).exists())
    features = {n: g.disk for n, g in plan.grids.items() if not (paths.FEATURES / n).exists()}
    need += sum(features.values())
    need += sum(row.weights for row in plan.rows if not (paths.MODELS / row.name).exists())
    cure = "free some space, or take fewer rows"
    if features:
        largest = max(features, key=lambda name: features[name])
        cure = f"free some space; features.{largest}.dtype int8 halves the largest feature set"
    return disk_problem("what is still to be made", need, Path(), cure)
