"""variants.NAME -> models/NAME, data/history/NAME.csv: a trained decoder; data/seeds/NAME: the same
with further seeds."""

from functools import partial
from typing import TYPE_CHECKING

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.experiment.params import Params, load_params, pick

if TYPE_CHECKING:
    from pipeline.training.ranks import Ranks
    from pipeline.training.seeds import Seeds


def main(name: str) -> None:
    params = load_params()
    pick(params, "variants", name)

    from pipeline.core.machine import pick_device, processes
    from pipeline.training.launch import check_ranks, launch

    count = processes()
    if count == 1:
        train(pick_device(), None, name, params)
    else:
        kind = check_ranks(count, params.training(name).batch_images)
        launch(train_along, count, kind, name)


def train_along(device: str, ranks: "Ranks", name: str) -> None:
    """Run `train` in one of several processes, each of which reads params.yaml itself.

    That imports what a single process imports. A checkpoint's key depends on the imported modules,
    and a single process may resume from the checkpoint.
    """
    train(device, ranks, name, load_params())


def train(device: str, ranks: "Ranks | None", name: str, params: Params) -> None:
    """Train a variant and write it; of several processes, only rank 0 writes.

    Args:
        device: picked before Arrow is imported.
    """
    if ranks and ranks.rank:
        seeds_of(name, params, device, ranks).follow()
        return

    from pipeline.core.machine import peak_memory
    from pipeline.tracking.cost import write_cost
    from pipeline.tracking.live import delay, start_live

    run_file = paths.CHECKPOINTS / name / "mlflow.json"
    curves = partial(start_live, name, params, run_file, delay(device))
    places = paths.MODELS / name, paths.history(name), paths.FURTHER_SEEDS / name
    p = seeds_of(name, params, device, ranks).train(*places, curves)
    took = p.seconds, p.step_seconds, p.images
    cost_file = paths.CHECKPOINTS / name / "cost.json"
    write_cost(cost_file, paths.MODELS / name, device, peak_memory(device), *took)


def seeds_of(name: str, params: Params, device: str, ranks: "Ranks | None" = None) -> "Seeds":
    """Return the trainings of a variant, with their places in the workspace."""
    from pipeline.training.ranks import ALONE
    from pipeline.training.seeds import Seeds

    variant = params.variants[name]
    data = paths.CORPORA / variant.corpus / "captions.parquet", paths.FEATURES / variant.features
    return Seeds(name, params, device, *data, paths.CHECKPOINTS / name, ranks or ALONE)


if __name__ == "__main__":
    stage(main)
