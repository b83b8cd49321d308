"""variants.NAME -> models/NAME, data/history/NAME.csv: a trained decoder; data/seeds/NAME: the same
with further seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.files import remove, whole_file, whole_folder, write_json
from pipeline.experiment.params import Params, load_params, pick

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def main(name: str) -> None:
    params = load_params()
    pick(params, "variants", name)
    first, *further = params.training(name).seeds
    checkpoints = [_train(name, params, first, paths.MODELS / name, paths.history(name))]
    with whole_folder(paths.FURTHER_SEEDS / name) as part:
        write_json(part / "seeds.json", further)  # DVC warns of an empty folder
        for seed in further:
            print(f"{name}: seed {seed}", flush=True)
            folder = part / str(seed)
            checkpoints.append(_train(name, params, seed, folder, folder / "history.csv"))
    for checkpoint in checkpoints:  # not sooner: a rerun begins where the last seed stopped
        remove(checkpoint)


def _train(name: str, params: Params, seed: int, folder: Path, history_file: Path) -> Path:
    """One training, written; its checkpoint. MLflow gets the curves of the first seed as they
    grow."""
    from pipeline.core.machine import pick_device

    device = pick_device()  # before Arrow is imported
    from pipeline.decoders.shared.model_folder import save_model
    from pipeline.tracking.live import Live, delay, start_live

    trainer, about = trainer_of(name, params, seed, device)
    is_first = seed == params.training(name).seeds[0]
    run_file = paths.CHECKPOINTS / name / "mlflow.json"
    curves = start_live(name, params, run_file, delay(device)) if is_first else Live(None)
    with curves as trainer.live:
        history = trainer.run()
    if history.empty:
        print(f"0 epochs: {name} is used as published", flush=True)
    save_model(folder, trainer.decoder, trainer.tokenizer, about)
    with whole_file(history_file) as part:
        history.to_csv(part, index=False)
    if is_first:
        _write_cost(name, folder, trainer, device)
    return trainer.checkpoint


def _write_cost(name: str, folder: Path, trainer: "Trainer", device: str) -> None:
    from pipeline.core.machine import peak_memory
    from pipeline.tracking.cost import write_cost

    p = trainer.progress
    took = (peak_memory(device), p.seconds, p.step_seconds, p.images)
    write_cost(paths.CHECKPOINTS / name / "cost.json", folder, device, *took)


def trainer_of(
    name: str, params: Params, seed: int, device: str
) -> "tuple[Trainer, dict[str, Any]]":
    """`prepare` with the places of the workspace."""
    from pipeline.training.setup import prepare

    variant, is_first = params.variants[name], seed == params.training(name).seeds[0]
    return prepare(
        name,
        params,
        seed,
        device,
        corpus=paths.CORPORA / variant.corpus / "captions.parquet",
        features=paths.FEATURES / variant.features,
        checkpoint=paths.CHECKPOINTS / name / ("checkpoint.pt" if is_first else f"seed-{seed}.pt"),
    )


if __name__ == "__main__":
    stage(main)
