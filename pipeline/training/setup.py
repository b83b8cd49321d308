"""Build the trainer of a params.yaml variant, and the config.json of its model."""

import math
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pipeline.core.capacity import memory_problem, refuse
from pipeline.data.corpus import SPLITS, Captions, references
from pipeline.data.files import digest, fingerprint, loaded_code, named_files
from pipeline.decoders.shared.contract import Decoder, Sizes
from pipeline.decoders.shared.model_folder import (
    build_decoder,
    check_grid,
    check_keep,
    read_vocabulary,
)
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import CaptionBatches
from pipeline.experiment.params import Params, Training, Variant
from pipeline.features.store import FeatureStore
from pipeline.languages.languages import ENGLISH
from pipeline.training.footprint import FLOAT32, of_training, step_key
from pipeline.training.ranks import ALONE, Ranks
from pipeline.training.self_critical import CiderReward
from pipeline.training.trainer import Trainer
from pipeline.training.validation import Validation


def prepare(
    name: str,
    params: Params,
    seed: int,
    device: str,
    *,
    corpus: Path,
    features: Path,
    checkpoint: Path,
    ranks: Ranks = ALONE,
) -> tuple[Trainer, dict[str, Any]]:
    """Return the trainer of a variant, ready to run or resume, and the config.json of its model.

    Args:
        corpus: captions.parquet of the variant's corpus.
        features: folder of the variant's features.
        checkpoint: file from which an interrupted run resumes.
        ranks: the processes that train together; this process is one of them.
    """
    variant, options = params.variants[name], params.training(name)
    store = _store(name, variant, corpus, features)
    tokenizer, sizes = _vocabulary(name, params, corpus, store)
    decoder = _decoder(variant, tokenizer, sizes, seed).to(device)
    train, val = (
        Captions(corpus, [split], ["image_id", "caption_id", "text"]) for split in ("train", "val")
    )
    train_batches, val_batches = (
        CaptionBatches(captions, store, tokenizer, options.batch_images, device)
        for captions in (train, val)
    )
    about = {**config(name, variant, store), "sizes": asdict(sizes)}
    key = _key(name, params, seed, corpus, store, about)
    longest = max(len(text.split()) for text in train["text"])
    english = params.corpora[variant.corpus].language == ENGLISH
    validation = Validation(val_batches, references(val), longest + 1, english)
    _check_memory(name, decoder, train_batches, options, len(tokenizer), ranks.count)
    reward = CiderReward(references(train)) if options.self_critical_epochs else None
    data = train_batches, validation, options
    place = seed, checkpoint, key
    return Trainer(decoder, tokenizer, *data, *place, reward, ranks=ranks), about


def _check_memory(
    name: str,
    decoder: Decoder,
    batches: CaptionBatches,
    options: Training,
    words: int,
    processes: int,
) -> None:
    """Raise a UserError if a training step does not fit into the memory that the weights leave
    free."""
    trained = sum(w.numel() for w in decoder.parameters() if w.requires_grad)
    tokens = len(batches.ids) / max(1, len(batches.image_ids))
    key, asked = step_key(options)
    numbers = sum(math.prod(array.shape[1:]) for array in batches.store.arrays.values())

    def more(images: int) -> int:
        whole = of_training((trained, 0), options, tokens, words, numbers, images)
        return whole - FLOAT32 * trained  # the weights are in memory already

    shared = -(-min(options.batch_images, len(batches.image_ids)) // processes)
    asked = min(asked, shared)
    refuse(memory_problem(f"training {name}", more, asked, key, batches.device))


def config(name: str, variant: Variant, store: FeatureStore) -> dict[str, Any]:
    """Return the description of the model for models/NAME/config.json, except its sizes.

    It holds only what training depends on.
    """
    about = {"variant": name, "decoder": variant.decoder, "args": variant.args}
    return {**about, **store.made_by(), "corpus": variant.corpus}


def _store(name: str, variant: Variant, corpus: Path, features: Path) -> FeatureStore:
    """Open the features, and check that they cover the corpus and suit the decoder."""
    store, what = FeatureStore(features), f"features '{variant.features}'"
    store.check(Captions(corpus, SPLITS, ["image_id"])["image_id"], what)
    check_keep(variant.decoder, store.keep, f"variants.{name}, {what}")
    check_grid(variant.decoder, store.shapes.positions, f"variants.{name}, {what}")
    return store


def _vocabulary(
    name: str, params: Params, corpus: Path, store: FeatureStore
) -> tuple[Tokenizer, Sizes]:
    variant, options = params.variants[name], params.training(name)
    counted = Captions(corpus, options.vocabulary_splits, ["text"])["text"]
    tokenizer, known = read_vocabulary(
        variant.decoder, counted, options.min_count, variant.args, f"variants.{name}.args"
    )
    _, grid, pooled = store.shapes
    return tokenizer, Sizes(grid, pooled, len(tokenizer), known)


def _decoder(variant: Variant, tokenizer: Tokenizer, sizes: Sizes, seed: int) -> Decoder:
    torch.manual_seed(seed)
    decoder = build_decoder(variant.decoder, sizes, variant.args)
    decoder.load_pretrained(tokenizer)
    return decoder


def _key(
    name: str,
    params: Params,
    seed: int,
    corpus: Path,
    store: FeatureStore,
    about: dict[str, Any],
) -> str:
    """Return a fingerprint of everything that the result depends on. A checkpoint with another one
    is not used."""
    variant = params.variants[name]
    settings = params.training(name).model_dump(exclude={"seeds"})
    data = [digest(corpus), store.manifest, digest(store.folder / "ids.parquet"), store.digest()]
    return fingerprint([about, settings, seed, data, named_files(variant.args), _code()])


@cache
def _code() -> str:
    """Return the fingerprint of the code, computed once per process.

    Training a first seed imports more modules than resuming it at its end. The key of the second
    seed must not depend on that.
    """
    return loaded_code()
