"""Every file of experiments/ loads, its arguments bind, and its paper's rows exist.

Each row also runs in miniature, from the image to the score. The columns of the sources, the family
of the encoder, the decoder and the training stay the same, but everything is small. The rules that
make a row small depend on the kind of an argument, so a new row or file needs no line here.
"""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.captioning.split import Model, caption_split
from pipeline.cleaning.clean import clean_file
from pipeline.cleaning.image_check import look_at_images
from pipeline.core import paths, registry
from pipeline.data.checked import read_json
from pipeline.data.corpus import published_references, read_captions
from pipeline.data.files import write_json
from pipeline.data.shards import Shards
from pipeline.decoders.shared.model_folder import load_model, save_model
from pipeline.experiment.params import Params, load_params
from pipeline.extraction.extract import extract
from pipeline.features.store import FeatureStore
from pipeline.report.paper_tables import paper_sheets, read_papers
from pipeline.results.result import Setting, results_of
from pipeline.results.scores import OWN
from pipeline.scoring.ptb import ptb_tokenize
from pipeline.scoring.variant import Known, Said, score_variant
from pipeline.sources import scenes
from stages.train import seeds_of
from tests.vision_language import publish
from tests.workspace import ROOT

FILES = sorted((ROOT / "experiments").glob("*.yaml"))
ROWS = [(file, name) for file in FILES for name in yaml.safe_load(file.read_text())["variants"]]
MODELS = ROOT / "tests" / "models"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_experiment_file_loads_and_binds(file: Path) -> None:
    params = load_params(file)
    for name, dataset in params.datasets.items():
        registry.check_args(registry.load("sources", dataset.source).fetch, dataset.args, name)
    for name, features in params.features.items():
        registry.check_args(
            registry.load("encoders", features.encoder).Encoder.__init__, features.args, name
        )
    for metric in params.scoring.metrics:
        assert callable(registry.load("metrics", metric).score)
    for name, variant in params.variants.items():
        registry.check_args(
            registry.load("decoders", variant.decoder).Decoder.__init__, variant.args, name
        )
        assert params.training(name)
        decoding = params.decoding(name)
        assert decoding.alternatives <= (decoding.samples or decoding.beam)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_section_of_an_experiment_is_used(file: Path) -> None:
    params = load_params(file)
    assert {v.features for v in params.variants.values()} == set(params.features)
    assert {v.corpus for v in params.variants.values()} == set(params.corpora)
    assert {c.dataset for c in params.corpora.values()} == set(params.datasets)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_paper_row_that_an_experiment_names_exists(file: Path, tmp_path: Path) -> None:
    params = load_params(file)
    settings = {
        name: Setting(name, corpus.split, {}, {}) for name, corpus in params.corpora.items()
    }
    sheets = paper_sheets(read_papers(), results_of(params, settings, tmp_path))
    assert {s.name for s in sheets} == {v.paper.table for v in params.variants.values() if v.paper}
    assert all(v.notes for v in params.variants.values() if v.paper)


def test_an_experiment_stands_beside_every_row_of_the_papers() -> None:
    tables = read_papers()["tables"]
    context = {name for table in tables.values() for name in table.get("context", [])}
    rows = {f"{t}, {row['system']}" for t in tables.keys() - context for row in tables[t]["rows"]}
    papers = [v.paper for file in FILES for v in load_params(file).variants.values() if v.paper]
    assert rows - {f"{p.table}, {p.system}" for p in papers} == set()


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], "tuple[Params, Path]"]:
    """A function from an experiment file to its miniature and a workspace, made once per file.

    The workspace has the corpora and the features of the file.
    """

    @cache
    def make(file: Path) -> tuple[Params, Path]:
        folder = tmp_path_factory.mktemp(file.stem)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            return prepared(shrunk(load_params(file), folder), folder), folder

    return make


def prepared(params: Params, folder: Path) -> Params:
    shards = drawn(folder / "raw", {corpus.split for corpus in params.corpora.values()})
    pictures = look_at_images(shards)
    for name, corpus in params.corpora.items():
        (paths.CORPORA / name).mkdir(parents=True)
        rejected = clean_file(folder / "raw", pictures, corpus, paths.CORPORA / name)
        captions = read_captions(paths.CORPORA / name / "captions.parquet")
        published = published_references(captions, rejected, ["val", "test"])
        write_json(paths.published(name), published)
        write_json(paths.references(name), ptb_tokenize(published))
    for name in params.features:
        seen(name, params, shards)
    return params


def drawn(folder: Path, schemes: set[str]) -> Shards:
    """Return eight scenes of 64 x 64 pixels with five captions each.

    They are split by every scheme in `schemes`, those that the file's corpora name.
    """
    scenes.fetch(folder, images=8, size=64, seed=1)
    raw = pd.read_parquet(folder / "captions.parquet")
    raw = raw.assign(**{f"split_{scheme}": raw["split_official"] for scheme in schemes})
    raw.to_parquet(folder / "captions.parquet", index=False)
    return Shards(folder)


def seen(name: str, params: Params, shards: Shards) -> None:
    row = params.features[name]
    encoder = registry.load("encoders", row.encoder).Encoder(**row.args)
    extract(encoder, shards, paths.FEATURES / name, row.model_dump(), "cpu", threads=1)
    for array in FeatureStore(paths.FEATURES / name).arrays.values():
        assert all(np.isfinite(part).all() for part in array.arrays)


@pytest.mark.parametrize(("file", "name"), ROWS, ids=[f"{file.stem}-{name}" for file, name in ROWS])
def test_a_row_runs_two_steps_a_caption_and_a_score(
    file: Path,
    name: str,
    miniature: Callable[[Path], "tuple[Params, Path]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The row runs as in stages/train.py, caption.py and score.py.

    A model that is used as it is takes no step.
    """
    params, folder = miniature(file)
    monkeypatch.chdir(folder)
    trainer, about = seeds_of(name, params, "cpu").trainer(params.training(name).seeds[0])
    before = {k: v.clone() for k, v in trainer.decoder.state_dict().items()}
    history = trainer.run()
    changed = any(not torch.equal(before[k], v) for k, v in trainer.decoder.state_dict().items())
    if params.training(name).epochs:
        assert history.step.iloc[-1] == 2 * len(history)
        assert np.isfinite(history.val_loss).all()
        assert np.isfinite(history.train_loss.iloc[0])  # self-critical epochs have a reward instead
    assert changed == (len(history) > 0) == (params.training(name).epochs > 0)
    save_model(paths.MODELS / name, trainer.decoder, trainer.tokenizer, about)
    variant, decoding = params.variants[name], params.decoding(name).model_dump()
    captions = pd.read_parquet(paths.CORPORA / variant.corpus / "captions.parquet")
    captions = captions[captions.split == "test"]
    store = FeatureStore(paths.FEATURES / variant.features)
    decoder, tokenizer, _ = load_model(paths.MODELS / name)
    (made,) = caption_split(Model(decoder, tokenizer, store, decoding, "cpu"), [captions], "test")
    found, searches, forced, _ = (table.to_pandas() for table in made)
    assert found.image_id.tolist() == sorted(captions.image_id.unique())
    references, published = (
        read_json(file(variant.corpus)) for file in (paths.references, paths.published)
    )
    said = Said(found, searches, forced, found.assign(seed=0).iloc[:0])
    protocols = params.protocols(name)
    row = score_variant(said, Known(references, published, set()), ["bleu"], protocols)
    scores = row.standard.summary["test"]
    others = [row.parts[protocol, OWN].summary["test"] for protocol in protocols]
    assert all(0 <= other["bleu_4"] <= 1 for other in others)
    assert all(0 <= scores[f"bleu_{n}"] <= 1 for n in (1, 2, 3, 4))
    assert 0 < scores["loss"] < 100


# How a row becomes small.


def shrunk(params: Params, folder: Path) -> Params:
    data = params.model_dump()
    for corpus in data["corpora"].values():
        corpus |= {"min_images_per_split": 1, "max_shared_captions": 1.0, "max_rejected": 1.0}
    for features in data["features"].values():
        features["args"] = shrunk_encoder(features["encoder"], features["args"])
    for name, variant in data["variants"].items():
        training, decoding = params.training(name), params.decoding(name)
        variant["args"] = shrunk_decoder(variant["decoder"], variant["args"], folder)
        epochs = min(1, training.epochs)
        variant["train"] |= {
            "epochs": epochs,
            "batch_images": 3,
            "self_critical_epochs": min(1, training.self_critical_epochs),
        }
        variant["train"]["min_count"] = min(2, training.min_count)
        beam = min(3, decoding.beam)
        kept = min(decoding.samples or beam, decoding.alternatives)
        variant["decode"] |= {"beam": beam, "max_tokens": 5, "alternatives": kept}
    return Params.model_validate(data)


def shrunk_encoder(kind: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return arguments for a small encoder with random weights.

    It is timm's own test model of the same family, or the smallest model of the kind in
    tests/models.
    """
    if kind == "timm_model":
        tiny = tiny_models().get(family(args["model"]), "test_resnet")
        return {
            **args,
            "model": tiny,
            "weights": "random",
            "image_size": 160,  # the only size that test_vit takes
        }
    if "model" in args:
        return {**args, "model": str(MODELS / kind), "weights": "random"}
    return {**args, "image_size": 3}  # for models that see pixels


@cache
def tiny_models() -> dict[str, str]:
    """Return the first of timm's test models for each family."""
    return {family(name): name for name in reversed(timm.list_models("test_*"))}


def family(model: str) -> str:
    """Return the module in which timm defines the model; a DeiT is a vision transformer."""
    module = timm.model_entrypoint(model.split(".")[0]).__module__
    return module.replace(".deit", ".vision_transformer")


def shrunk_decoder(kind: str, args: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return arguments for a small decoder.

    Numbers of units become 16 at most. Tiny files and models replace the large ones and are read in
    the same way.
    """
    small = {key: min(value, 16) if type(value) is int else value for key, value in args.items()}
    if args.get("new_tokenizer"):
        small["new_tokenizer"] = 300  # it must have room for 256 bytes
    if args.get("vectors"):
        small["vectors"] = str(tiny_vectors(folder / "vectors.txt", small["embedding"]))
    if kind in ("vlm", "vlm_seq2seq"):
        small |= {"model": str(tiny_vision_language(folder / kind, kind)), "dtype": "float32"}
        return small
    if kind == "blind":
        small |= {"clip": str(MODELS / "clip"), "clip_weights": "random", "longest_prompt": 60}
    if "lm" in args:
        small["lm"] = str(tiny_language_model(folder / "lm"))
    if args.get("checkpoint"):
        small["checkpoint"] = str(tiny_checkpoint(folder / "checkpoint.pt", small))
    if args.get("model"):
        small["model"] = str(tiny_published(kind, folder / kind))
    return small


def tiny_vision_language(folder: Path, decoder: str) -> Path:
    """Write a Qwen2.5-VL or a Florence-2 of a few thousand weights as the Hub holds it; return its
    folder."""
    if not folder.is_dir():
        publish(folder, {"vlm": "qwen2_5_vl", "vlm_seq2seq": "florence2"}[decoder])
    return folder


def tiny_vectors(path: Path, width: int) -> Path:
    words = ["is", "the", "of", "in", "and", "circle", "square", "red", "blue", "left", "right"]
    rng = np.random.default_rng(0)
    path.write_text(
        "".join(
            f"{word} {' '.join(f'{x:.3f}' for x in rng.normal(size=width))}\n" for word in words
        )
    )
    return path


def tiny_language_model(folder: Path) -> Path:
    """Write a GPT-2 as the Hub holds it, and return its folder.

    It has config.json, model.safetensors and tokenizer.json (a token per byte).
    """
    if not folder.is_dir():
        from transformers import GPT2Config, GPT2LMHeadModel

        inner = letter_tokenizer()
        sizes = {
            "n_embd": 16,
            "n_head": 2,
            "n_layer": 2,
            "n_positions": 512,
            "vocab_size": inner.get_vocab_size(),
        }
        config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        GPT2LMHeadModel(config).save_pretrained(folder)
        inner.save(str(folder / "tokenizer.json"))
    return folder


def letter_tokenizer() -> Tokenizer:
    """Return a tokenizer with a token per byte; token 0 ends a caption."""
    letters = {
        letter: n
        for n, letter in enumerate(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    inner = Tokenizer(models.BPE(letters, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>"])
    return inner


def tiny_checkpoint(path: Path, args: dict[str, Any]) -> Path:
    """Write a mapping network (MLP) for tests/models/clip and the language model `lm`.

    The weights have the names of ClipCap's weights.
    """
    from transformers import GPT2LMHeadModel

    width, pooled = 16, read_json(MODELS / "clip/config.json")["projection_dim"]
    out = args["prefix"] * width
    mapping = torch.nn.Sequential(
        torch.nn.Linear(pooled, out // 2), torch.nn.Tanh(), torch.nn.Linear(out // 2, out)
    )
    parts = {"clip_project.model.": mapping, "gpt.": GPT2LMHeadModel.from_pretrained(args["lm"])}
    torch.save(
        {before + k: v for before, part in parts.items() for k, v in part.state_dict().items()},
        path,
    )
    return path


def tiny_published(kind: str, folder: Path) -> Path:
    """Write the model of tests/models as the Hub holds it, and return its folder.

    It has config.json, weights, tokenizer.json and preprocessor_config.json.
    """
    if not folder.is_dir():
        from transformers import AutoConfig, AutoModelForImageTextToText

        content = read_json(MODELS / kind / "config.json")
        for part in (content, *(value for value in content.values() if isinstance(value, dict))):
            # Every letter is a token, so texts take many positions.
            part |= {key: 512 for key in ("n_positions", "max_position_embeddings") if key in part}
        config = AutoConfig.for_model(**content)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
        letter_tokenizer().save(str(folder / "tokenizer.json"))
        shutil.copy(MODELS / kind / "preprocessor_config.json", folder)
    return folder


def test_the_miniature_of_an_encoder_is_of_its_family() -> None:
    names = [
        "convnext_large.fb_in1k",
        "resnext101_32x8d.tv_in1k",
        "deit_base_patch16_224.fb_in1k",
        "vgg16.tv_in1k",
    ]
    tiny = [shrunk_encoder("timm_model", {"model": name})["model"] for name in names]
    assert tiny == ["test_convnext", "test_resnet", "test_vit", "test_resnet"]
