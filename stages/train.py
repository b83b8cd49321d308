"""variants.NAME -> models/NAME, data/history/NAME.csv: a trained decoder; data/seeds/NAME: the same
with further seeds."""

from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.files import (
    digest,
    fingerprint,
    loaded_code,
    named_files,
    remove,
    whole_file,
    whole_folder,
    write_json,
)
from pipeline.experiment.params import Params, Variant, load_params, pick

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipeline.features.store import FeatureStore
    from pipeline.training.trainer import Trainer


def main(name: str) -> None:
    params = load_params()
    pick(params, "variants", name)
    first, *further = params.training(name).seeds

    checkpoints = [_train(name, params, first, paths.MODELS / name, paths.history(name))]
    with whole_folder(paths.FURTHER_SEEDS / name) as part:
        write_json(part / "seeds.json", further)  # DVC warns of an empty folder
        for seed in further:
            checkpoints.append(
                _train(name, params, seed, part / str(seed), part / str(seed) / "history.csv")
            )
    for (
        checkpoint
    ) in checkpoints:  # all of them stay until the last seed is done, so that a rerun begins there
        remove(checkpoint)


def _train(name: str, params: Params, seed: int, folder: "Path", history_file: "Path") -> "Path":
    """One training, written; its checkpoint. Nothing of it stays in memory for the next."""
    from pipeline.decoders.shared.model_folder import save_model

    trainer, about, history = train(name, params, seed)
    save_model(folder, trainer.decoder, trainer.tokenizer, about)
    with whole_file(history_file) as part:
        history.to_csv(part, index=False)
    return trainer.checkpoint


def train(name: str, params: Params, seed: int) -> "tuple[Trainer, dict[str, Any], pd.DataFrame]":
    """A trained model, its config.json and its history; the curves of the first seed are sent to
    MLflow as they grow."""
    from pipeline.tracking.live import Live, delay, start_live

    trainer, about = prepare(name, params, seed)
    is_first = seed == params.training(name).seeds[0]
    if not is_first:
        print(f"{name}: seed {seed}", flush=True)
    run_file = paths.CHECKPOINTS / name / "mlflow.json"
    trainer.live = live = (
        start_live(name, params, run_file, delay(trainer.device)) if is_first else Live(None)
    )
    try:
        history = trainer.run()
    except BaseException as error:
        live.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    live.close("FINISHED")
    if history.empty:
        print(f"0 epochs: {name} is used as published", flush=True)
    return trainer, about, history


def prepare(name: str, params: Params, seed: int) -> "tuple[Trainer, dict[str, Any]]":
    """The trainer of a variant, ready to run or to resume, and its config.json."""
    variant, options = params.variants[name], params.training(name)
    corpus_file = paths.CORPORA / variant.corpus / "captions.parquet"

    from pipeline.core.machine import pick_device

    device = pick_device()  # before Arrow is imported
    import torch

    from pipeline.data.corpus import SPLITS, Captions, references
    from pipeline.decoders.shared.contract import Sizes
    from pipeline.decoders.shared.model_folder import build_decoder, check_grid, read_vocabulary
    from pipeline.decoding.batches import CaptionBatches
    from pipeline.features.store import FeatureStore
    from pipeline.training.self_critical import CiderReward
    from pipeline.training.trainer import Trainer, Validation

    store = FeatureStore(paths.FEATURES / variant.features)
    store.check(
        Captions(corpus_file, SPLITS, ["image_id"])["image_id"], f"features '{variant.features}'"
    )
    check_grid(
        variant.decoder, store.grid.shape[1], f"variants.{name}, features '{variant.features}'"
    )
    counted = Captions(corpus_file, options.vocabulary_splits, ["text"])["text"]
    tokenizer, known = read_vocabulary(
        variant.decoder, counted, options.min_count, variant.args, f"variants.{name}.args"
    )
    sizes = Sizes(store.grid.shape[2], store.pooled.shape[1], len(tokenizer), known)
    torch.manual_seed(seed)
    decoder = build_decoder(variant.decoder, sizes, variant.args)
    decoder.load_pretrained(tokenizer)
    decoder = decoder.to(device)
    learnt, held_out = (
        Captions(corpus_file, [split], ["image_id", "caption_id", "text"])
        for split in ("train", "val")
    )
    batches, val = (
        CaptionBatches(split, store, tokenizer, options.batch_images, device)
        for split in (learnt, held_out)
    )
    about = {**config(name, variant, store), "sizes": asdict(sizes)}
    data = [
        digest(corpus_file),
        store.manifest,
        digest(store.folder / "pooled.npy"),
        digest(store.folder / "ids.parquet"),
    ]
    settings = options.model_dump(exclude={"seeds"})
    key = fingerprint([about, settings, seed, data, named_files(variant.args), _code()])
    longest = max(len(text.split()) for text in learnt["text"])
    validation = Validation(val, references(held_out), longest + 1)
    checkpoint = (
        paths.CHECKPOINTS
        / name
        / ("checkpoint.pt" if seed == options.seeds[0] else f"seed-{seed}.pt")
    )
    reward = CiderReward(references(learnt)) if options.self_critical_epochs else None
    return Trainer(
        decoder, tokenizer, batches, validation, options, seed, checkpoint, key, reward
    ), about


@cache
def _code() -> str:
    """Once: a second seed finds more modules imported after a training than after a resumed one
    that had nothing to do."""
    return loaded_code()


def config(name: str, variant: Variant, store: "FeatureStore") -> dict[str, Any]:
    """What models/NAME/config.json tells of the model, beside its sizes: nothing that training did
    not depend on."""
    seen = store.manifest
    encoder = {"name": seen["encoder"], "args": seen["args"], "dtype": seen.get("dtype", "float16")}
    about = {"variant": name, "decoder": variant.decoder, "args": variant.args, "encoder": encoder}
    return {**about, "dataset": store.manifest["dataset"], "corpus": variant.corpus}


if __name__ == "__main__":
    stage(main)
