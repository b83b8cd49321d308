"""`captionlab plan`: its figures equal those counted by hand and those of real models. It needs no
network and no weights."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from captionlab import __main__, plan_checks
from captionlab.plan import Model, Row, plan, render
from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.core.registry import load
from pipeline.data.shards import Shards
from pipeline.experiment.params import Params, load_params
from pipeline.extraction.extract import extract
from pipeline.sources import scenes
from tests.workspace import ROOT, environment, tiny_params

FILES = sorted((ROOT / "experiments").glob("*.yaml"))
NOWHERE = Path("no-such-folder")


def planned(file: str, name: str, corpora: Path = NOWHERE) -> Row:
    return next(
        row
        for row in plan(load_params(ROOT / "experiments" / file), corpora).rows
        if row.name == name
    )


def cleaned(corpora: Path, corpus: str, words: int) -> Path:
    """Write a corpus whose training captions hold `words` different words."""
    (corpora / corpus).mkdir(parents=True)
    row = {"image_id": "i", "caption_id": "i#0", "raw": "", "split": "train"}
    table = pd.DataFrame([{**row, "text": " ".join(f"w{n}" for n in range(words))}])
    table.to_parquet(corpora / corpus / "captions.parquet")
    return corpora


def test_the_papers_two_models_have_the_papers_numbers_of_parameters(tmp_path: Path) -> None:
    """Paper C prints 5.52 M with 7,698 words and 19.23 M with 8,911. Both vocabularies also have
    four special tokens. The paper's attention has one bias more than ours: 19,238,356."""
    v = 7_698 + 4
    image, lstm = 2048 * 256 + 256, 2 * 4 * (2 * 256 * 256 + 2 * 256)
    row = planned("sat-flickr8k.yaml", "cnn-lstm", cleaned(tmp_path / "a", "flickr8k", 7_698))
    assert (
        row.model.trainable == row.model.parameters == image + 256 * v + lstm + 257 * v == 5_528_342
    )
    v = 8_911 + 4
    attention = 2048 * 256 + 256 + 512 * 256 + 256 + 256
    cell = 4 * 512 * (512 + 2048 + 512 + 2)
    row = planned("sat-flickr8k.yaml", "sat", cleaned(tmp_path / "b", "flickr8k", 8_911))
    expected = attention + 512 * v + cell + 2 * (2048 * 512 + 512) + 512 * 2048 + 2048 + 513 * v
    assert row.model.parameters == expected == 19_238_355
    assert not row.model.assumed


def test_word_vectors_that_are_not_tuned_are_no_trained_parameters(tmp_path: Path) -> None:
    params = load_params(ROOT / "experiments/merge-flickr8k.yaml")
    row = plan(params, NOWHERE).rows[0]
    assert row.model.parameters - row.model.trainable == 50 * row.model.words
    assert row.lacks == (
        "glove/glove.6B.50d.txt (args.vectors) is not there: get it, or delete the row"
    )
    variant = params.variants["merge-glove"]
    (tmp_path / "glove.txt").touch()
    tuned = variant.model_copy(
        update={
            "args": {**variant.args, "tune_vectors": True, "vectors": str(tmp_path / "glove.txt")}
        }
    )
    row = plan(params.model_copy(update={"variants": {"merge-glove": tuned}}), NOWHERE).rows[0]
    assert row.model.parameters == row.model.trainable
    assert row.lacks == ""


def test_a_language_model_is_counted_without_its_files() -> None:
    """The sum of GPT-2's 124,439,808 parameters and the mapping. ClipCap's paper prints 156 M, with
    CLIP features of 512 dimensions instead of 768."""
    rows = {
        row.name: row.model
        for row in plan(load_params(ROOT / "experiments/clip-prefix-flickr8k.yaml"), NOWHERE).rows
    }
    gpt2, mapping = 124_439_808, 768 * 3840 + 3840 + 3840 * 7680 + 7680
    for name in ("clip-prefix-original", "clip-prefix-gradclip", "clip-prefix-tokenizer"):
        assert rows[name].trainable == rows[name].parameters == gpt2 + mapping == 156_891_648
        assert rows[name].words == 50_257
    frozen = rows["clip-prefix-transformer"]
    block = 768 * 3 * 768 + 768 * 768 + 768 + 2 * (768 * 1536) + 1536 + 768 + 4 * 768
    assert frozen.parameters - frozen.trainable == gpt2
    assert frozen.trainable == 768 * 40 * 768 + 40 * 768 + 40 * 768 + 8 * block


def test_a_published_model_is_downloaded_and_not_trained(tmp_path: Path) -> None:
    row = planned("pretrained.yaml", "blip-base")
    data, model = planned("flickr8k-offline.yaml", "merge").download, row.model
    assert (model.trainable, model.parameters) == (0, 223_971_644)
    assert model.fetched == "Salesforce/blip-image-captioning-base"
    assert row.download == data + 4 * model.parameters
    lacks = "clipcap/coco_weights.pt (args.checkpoint) is not there: get it, or delete the row"
    assert planned("pretrained.yaml", "clipcap-coco").lacks == lacks
    params = load_params(ROOT / "experiments/pretrained.yaml")
    args = {"model": str(ROOT / "tests/models/git"), "weights": "random"}
    tuned = params.variants["git-base-coco"].model_copy(
        update={"args": args, "train": {"epochs": 3}}
    )
    found = plan(params.model_copy(update={"variants": {"mine": tuned}}), NOWHERE)
    assert found.rows[0].model.download == 0
    # Without tokenizer files, its vocabulary comes from the captions, which are not there yet.
    assert found.rows[0].lacks


# An adapter of rank 8 has 8 numbers for each input and each output of a layer.
SQUARE, UP_AND_DOWN = 8 * (768 + 768), 2 * 8 * (768 + 3072)
GPT2_LAYER = 8 * (768 + 2304) + SQUARE + UP_AND_DOWN
ADAPTED = {
    "blip": (12 * (8 * SQUARE + UP_AND_DOWN) + SQUARE, "Salesforce/blip-image-captioning-base"),
    "git": (6 * (4 * SQUARE + UP_AND_DOWN), "microsoft/git-base-coco"),
    "vit_gpt2": (
        12 * (GPT2_LAYER + 8 * (768 + 1536) + 2 * SQUARE),
        "nlpconnect/vit-gpt2-image-captioning",
    ),
}


@pytest.mark.parametrize("decoder", ADAPTED)
def test_an_adapter_alone_is_trained_and_kept(decoder: str) -> None:
    trained, model = ADAPTED[decoder]
    params = load_params(ROOT / "experiments/pretrained.yaml")
    row = params.variants["blip-base"]

    def planned_with(args: dict[str, Any]) -> Model:
        change = {"decoder": decoder, "args": {"model": model, **args}, "train": {"epochs": 1}}
        rows = {"mine": row.model_copy(update=change)}
        return plan(params.model_copy(update={"variants": rows}), NOWHERE).rows[0].model

    whole, found = planned_with({}), planned_with({"lora": {"rank": 8}})
    assert found.trainable == trained
    assert found.parameters == whole.parameters + trained
    assert found.saved == 4 * trained
    assert whole.trainable == whole.parameters
    assert found.download == whole.download == 4 * whole.parameters


def test_weights_of_4_bits_are_counted_downloaded_in_full_and_held_packed() -> None:
    """The bytes of the packed model are derived in tests/decoders/test_four_bits.py."""
    params = load_params(ROOT / "experiments/today.yaml")
    row = params.variants["qwen-lora"]
    rows = {
        "full": row,
        "packed": row.model_copy(update={"args": {**row.args, "quantise": "4bit"}}),
    }
    planned_rows = plan(params.model_copy(update={"variants": rows}), NOWHERE).rows
    full, packed = (found.model for found in planned_rows)
    adapter = 36 * 8 * (2 * 4096 + 2 * (2048 + 256) + 3 * (2048 + 11008))
    assert adapter == 14_966_784
    assert full.parameters == packed.parameters == 3_754_622_976 + adapter
    assert full.trainable == packed.trainable == adapter
    assert full.saved == packed.saved == 2 * adapter
    assert full.download == packed.download == 2 * 3_754_622_976
    assert full.footprint
    assert packed.footprint
    assert full.footprint.weights == 2 * (3_754_622_976 + adapter)
    assert packed.footprint.weights == 3_520_856_064 + 2 * adapter


def test_an_adapter_and_a_mapping_are_trained_and_kept() -> None:
    params = load_params(ROOT / "experiments/clip-prefix-flickr8k.yaml")
    row = params.variants["clip-prefix-original"]
    args = {"prefix": 10, "mapping": "mlp", "lm": "gpt2", "lora": {"rank": 8}}
    rows = {"mine": row.model_copy(update={"args": args})}
    found = plan(params.model_copy(update={"variants": rows}), NOWHERE).rows[0].model
    adapter, mapping = 12 * GPT2_LAYER, 768 * 3840 + 3840 + 3840 * 7680 + 7680
    assert found.trainable == adapter + mapping == 33_631_488
    assert found.parameters == 124_439_808 + adapter + mapping
    assert found.saved == 4 * (adapter + mapping)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("keep", ["grid", "pooled", "both"])
def test_features_take_the_bytes_that_extraction_writes(
    tmp_path: Path, keep: str, dtype: str
) -> None:
    data = tiny_params()
    data["features"]["scenes-lite0"] |= {"keep": keep, "dtype": dtype}
    params = Params.model_validate(data)
    row, args = params.features["scenes-lite0"], params.datasets["scenes"].args
    expected = plan(params, NOWHERE)
    scenes.fetch(tmp_path / "raw", **args)
    images = Shards(tmp_path / "raw")
    encoder = load("encoders", row.encoder).Encoder(**row.args)
    about = {"keep": keep, "dtype": dtype}
    extract(encoder, images, tmp_path / "features", about, "cpu", 1)
    files = list((tmp_path / "features").glob("*.npy"))
    headers = 128 * len(files)
    written = sum(file.stat().st_size for file in files)
    assert expected.grids["scenes-lite0"].disk == written - headers
    assert expected.grids["scenes-lite0"].download == 0
    assert expected.sizes["scenes"].images == len(images) == 36


def test_pictures_themselves_take_a_byte_a_colour() -> None:
    data = tiny_params()
    data["features"]["scenes-lite0"] |= {"encoder": "pixels", "args": {"image_size": 32}}
    grid = plan(Params.model_validate(data), NOWHERE).grids["scenes-lite0"]
    assert grid.disk == 36 * (32 * 32 * 3 + 3 * 2)
    assert grid.download == 0


def test_a_plan_as_it_is_printed() -> None:
    data = tiny_params()
    data["datasets"]["scenes"]["args"] = {"images": 2000, "size": 128, "seed": 1}
    network = {
        "model": "tf_efficientnet_lite0.in1k",
        "weights": "hub",
        "image_size": 128,
        "resize": "squash",
    }
    data["features"]["scenes-lite0"]["args"] = network
    args = {"embedding": 128, "hidden": 256, "dropout": 0.3}
    row = {**data["variants"]["merge"], "args": args}
    paper = {"table": "merge_flickr8k", "system": "merge-glove"}
    data["variants"] = {"merge": row, "beside": {**row, "paper": paper}, "again": row}
    assert (
        1280 * 256 + 256 + 128 * 10_000 + 4 * 256 * (128 + 256 + 2) + 256 * 257 + 257 * 10_000
        == 4_638_992
    )
    assert render(plan(Params.model_validate(data), NOWHERE), "params.yaml").splitlines() == [
        "params.yaml: 3 variants",
        "",
        "data set  images  on disk  download",
        "scenes     2,000  4.59 MB         0",
        "",
        "features      network                      grid  pooled  keep  on disk  saved  "
        "parameters  weights",
        "scenes-lite0  tf_efficientnet_lite0  16 x 1,280   1,280  both  87.0 MB      0  "
        "    4.65 M  18.6 MB",
        "scenes-lite0: its decoders read pooled: keep: pooled saves 81.9 MB",
        "",
        "variant   source  encoder                decoder    words  trained      of    "
        "disk  download",
        "beside no paper's row:",
        "  merge   scenes  tf_efficientnet_lite0  merge    ~10,000   4.64 M  4.64 M  110 "
        "MB   18.6 MB",
        "  again   scenes  tf_efficientnet_lite0  merge    ~10,000   4.64 M  4.64 M  110 "
        "MB   18.6 MB",
        "beside merge_flickr8k, merge-glove:",
        "  beside  scenes  tf_efficientnet_lite0  merge    ~10,000   4.64 M  4.64 M  110 "
        "MB   18.6 MB",
        "",
        "all together: about 147 MB on disk, 18.6 MB to download",
        "~: assumed, because the captions have not been cleaned yet; the parameter counts depend on it",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_experiment_is_planned_without_a_network_in_120_columns(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a plan opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    params = load_params(file)
    found = plan(params, NOWHERE)
    assert [row.name for row in found.rows] == list(params.variants)
    for row in found.rows:
        assert row.lacks or (row.model.words and row.model.parameters and row.disk)
        assert row.lacks or (row.model.trainable > 0) == (params.training(row.name).epochs > 0)
    assert all(grid.shapes.positions and grid.disk for grid in found.grids.values())
    assert all(grid.keep == grid.read for grid in found.grids.values())
    text = render(found, file.name)
    assert max(map(len, text.splitlines())) <= 120
    for name, variant in params.variants.items():
        assert f"  {name} " in text
        assert not variant.paper or f"beside {variant.paper.table}, {variant.paper.system}:" in text


def test_pooled_vectors_of_flickr30k_take_less_than_a_hundred_megabytes() -> None:
    clip = plan(load_params(ROOT / "experiments/clip-prefix-flickr30k.yaml"), NOWHERE).grids[
        "flickr30k-clip"
    ]
    assert (clip.disk, clip.takes("both")) == (31_783 * 768 * 2, 31_783 * (768 + 256 * 1024) * 2)


def test_a_language_model_of_the_hub_brings_weights_and_one_that_is_here_or_drawn_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = "prefix_lm brings weights of its own, which are not in the downloads"
    for file, brings in {"clip-prefix-flickr8k": True, "scenes-all": False}.items():
        found = render(plan(load_params(ROOT / f"experiments/{file}.yaml"), NOWHERE), "x")
        assert (told in found.splitlines()) == brings, file
    found = render(plan(load_params(ROOT / "experiments/flickr8k-offline.yaml"), NOWHERE), "x")
    assert "brings weights" not in found
    assert capsys.readouterr().err == ""


def test_a_bar_of_the_language_models_reader_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tqdm.auto import tqdm

    from pipeline.decoders.shared import language_model

    original = language_model.find
    monkeypatch.setattr(
        language_model,
        "find",
        lambda lm: next(original(lm) for _ in tqdm([1], desc="Converting")),
    )
    row = planned("flickr8k-offline.yaml", "prefix-lm-tuned")
    assert (row.lacks, row.brings) == ("", False)
    assert capsys.readouterr().err == ""


MISTAKES = [
    (
        {"features": {"weights": "package"}},
        "features.scenes-lite0.args.weights: no installed package has weights for "
        "'test_efficientnet': there is one for tf_efficientnet_lite0; write hub or a file",
    ),
    (
        {"features": {"weights": "w.pth"}},
        "features.scenes-lite0.args.weights: there is no file 'w.pth': name one, or write hub, "
        "package or random",
    ),
    (
        {"features": {"weights": "rondom"}},
        "features.scenes-lite0.args.weights: there is no file 'rondom' (did you mean 'random'?): "
        "name one, or write hub, package or random",
    ),
    (
        {"split": "oficial"},
        "corpora.scenes.split: 'oficial' is no split scheme of scenes (did you mean 'official'?): "
        "there are official",
    ),
    (
        {"source": "flickr8k", "args": {}, "split": "karpaty"},
        "corpora.scenes.split: 'karpaty' is no split scheme of flickr8k: there are official, last",
    ),
    (
        {"source": "flickr8k", "args": {}, "split": "karpathy"},
        "corpora.scenes.split: karpathy needs the argument karpathy of flickr8k: write args: "
        "{karpathy: download}",
    ),
    (
        {"source": "flickr30k", "args": {"karpathy": "k.json", "archives": "a"}, "split": "last"},
        "datasets.scenes.args.karpathy: k.json is not there: name a file, or write download; "
        "datasets.scenes.args.archives: a is not a folder: name one, or leave archives out",
    ),
    (
        {"source": "folder", "args": {"path": "p", "captions": "c.csv"}, "split": "random"},
        "datasets.scenes.args.captions: p/c.csv is not there: name a file, or null for .txt files "
        "(.csv, .tsv, .jsonl, .parquet, .json)",
    ),
    (
        {"source": "folder", "args": {"path": "p", "captions": "s.csv"}, "split": "random"},
        "datasets.scenes.args.captions: p/s.csv is separated by ';', but a comma is expected: save it "
        "with commas",
    ),
    (
        {"source": "folder", "args": {"path": "p", "captions": "n.csv"}, "split": "official"},
        "corpora.scenes.split: official needs a column 'split' in n.csv: add it, or write random",
    ),
    (
        {
            "source": "folder",
            "args": {"path": "p", "captions": "n.csv", "test": 0.6},
            "split": "random",
        },
        "corpora.scenes: val has 0 of 1 images, min_images_per_split is 1: lower it, or raise "
        "datasets.scenes.args.val",
    ),
    (
        {"source": "folder", "args": {"path": "p", "captions": "1.png"}, "split": "random"},
        "datasets.scenes.args.captions: p/1.png is of an unknown format: give .csv, .tsv, .jsonl, "
        ".parquet, .json",
    ),
    (
        {"source": "folder", "args": {"path": "p", "val": 0.6, "test": 0.5}, "split": "random"},
        "datasets.scenes.args: val 0.6 and test 0.5 leave no images to train: give shares of less "
        "than 1 in all",
    ),
    (
        {"source": "folder", "args": {"path": "none"}, "split": "randm"},
        "datasets.scenes: none (path: in params.yaml) is not a folder: name the one that holds "
        "your images; corpora.scenes.split: 'randm' is no split scheme of folder (did you mean "
        "'random'?): there are official, random",
    ),
    (
        {"chair": {"synonyms": "s.txt", "instances": ["i.json"]}},
        "scoring.chair.synonyms: s.txt is not there: name a file of COCO's synonyms; "
        "scoring.chair.instances: i.json is not there: name a file of COCO's instances",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), MISTAKES, ids=str)
def test_files_splits_and_shares_that_cannot_be_are_told_before_anything_runs(
    captionlab: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p").mkdir()
    Image.new("RGB", (8, 8)).save("p/1.png")
    Path("p/s.csv").write_text("image;caption\n1.png;One\n")
    Path("p/n.csv").write_text("image,caption\n1.png,One\n")
    data = tiny_params()
    data["features"]["scenes-lite0"]["args"] |= changes.get("features", {})
    data["corpora"]["scenes"]["split"] = changes.get("split", "official")
    if "source" in changes:
        data["datasets"]["scenes"] = {name: changes[name] for name in ("source", "args")}
    if "chair" in changes:
        data["scoring"] |= {"metrics": ["chair"], "chair": changes["chair"]}
    Path("params.yaml").write_text(yaml.safe_dump(data))
    assert captionlab("plan") == (2, "", f"error: {expected}\n")


def test_a_share_above_1_is_told_before_anything_runs(tmp_path: Path) -> None:
    data = tiny_params()
    data["datasets"]["scenes"] = {"source": "folder", "args": {"path": "p", "val": 1.5}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as error:
        load_params(tmp_path / "params.yaml")
    told = "datasets.scenes.args.val: expected at most 1, found 1.5"
    assert str(error.value) == f"{tmp_path / 'params.yaml'}: {told}"


def test_the_split_schemes_are_known_of_every_source() -> None:
    assert sorted(plan_checks.SCHEMES) == registry.names("sources")
    for source, schemes in plan_checks.SCHEMES.items():
        told = load("sources", source).__doc__
        assert told, source
        assert all(f"{name}:" in told or f"`{name}`:" in told for name in schemes), source


def test_what_a_plan_says_of_weights_is_what_the_encoder_refuses() -> None:
    args = {"model": "test_efficientnet", "image_size": 64}
    for weights in ("package", "w.pth"):
        with pytest.raises(UserError):
            load("encoders", "timm_model").Encoder(**args, weights=weights)


@pytest.mark.slow
def test_a_local_folder_of_archives_is_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / "experiments/flickr8k-offline.yaml")
    assert plan(params, NOWHERE).rows[0].download == 1_120_000_000
    monkeypatch.setenv("CAPTIONLAB_FLICKR8K", "/somewhere")
    assert plan(params, NOWHERE).rows[0].download == 0


def test_coco_is_planned_with_its_cap_on_images() -> None:
    size = load("sources", "coco2014").size
    assert size(karpathy="download")[:2] == (123_287, 20_408_459_804)
    assert size(karpathy="download").download == 20_408_459_804 + 36_700_000
    assert size()[:1] == (123_287,)
    assert size(karpathy="x.json", max_images=6_000).images == 6_000 + 5_000 + 5_000
    assert size(max_images=6_000).images == 12_000


def test_what_is_shared_counts_once_in_the_totals() -> None:
    params = load_params(ROOT / "experiments/flickr8k-offline.yaml")
    found = plan(params, NOWHERE)
    one = found.sizes["flickr8k"].disk + found.grids["flickr8k-lite0"].disk
    seeds = [len(params.training(row.name).seeds) for row in found.rows]
    models = 4 * sum(n * row.model.parameters for n, row in zip(seeds, found.rows, strict=True))
    assert sum(row.disk for row in found.rows) == len(found.rows) * one + models
    assert (
        f"all together: about {(one + models) / 1e9:.2f} GB on disk, 1.12 GB to download"
        in render(found, "x")
    )


@pytest.mark.parametrize(
    ("section", "name", "args", "expected"),
    [
        (
            "datasets",
            "scenes",
            {"images": "many"},
            r"datasets\.scenes\.args\.images: expected a whole number, found 'many'",
        ),
        (
            "features",
            "scenes-lite0",
            {"model": "test_effnet"},
            r"features\.scenes-lite0: timm has no model 'test_effnet'",
        ),
        (
            "features",
            "scenes-lite0",
            {"colour": 1},
            r"features\.scenes-lite0\.args: unknown argument 'colour'",
        ),
        (
            "variants",
            "merge",
            {"hiden": 1},
            r"variants\.merge\.args: unknown argument 'hiden' \(did you mean 'hidden'\?\)",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place(
    section: str, name: str, args: dict[str, Any], expected: str
) -> None:
    data = tiny_params()
    data[section][name]["args"] |= args
    with pytest.raises(UserError, match=f"^{expected}[^\n]*$"):
        plan(Params.model_validate(data), NOWHERE)


def test_a_decoder_that_cannot_be_built_is_told_and_the_others_are_planned() -> None:
    data = tiny_params()
    args = {"lm": "gpt2", "mapping": "transformer", "mapping_heads": 5}
    data["variants"]["merge"] |= {"decoder": "prefix_lm", "args": args}
    found = plan(Params.model_validate(data), NOWHERE)
    broken, fine, _ = found.rows
    assert (broken.model.words, fine.model.words) == (0, 10_000)
    assert (
        "merge: args.mapping_heads: 5 does not divide the width of the language model, 768"
        in render(found, "x")
    )


MEASURED = """
import sys
import captionlab.__main__ as cli
sys.argv = ["captionlab", "plan", sys.argv[1]]
cli.main()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def test_the_command_needs_neither_weights_in_memory_nor_a_workspace(tmp_path: Path) -> None:
    """The encoders of this file have 1.07 billion weights, 4.3 GB. The peak stays below 1.5 GB, so
    it comes from libraries.

    The test reads VmHWM, because a child's ru_maxrss starts at its parent's value.
    """
    started = time.monotonic()
    command = [sys.executable, "-c", MEASURED, str(ROOT / "experiments/convnext-coco.yaml")]
    env = {**environment(ROOT), "CAPTIONLAB_OVERSIZE": "1"}  # It needs 200 GB of disk.
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    print(f"{time.monotonic() - started:.1f} s")
    assert done.returncode == 0, done.stderr
    assert "beside convnext_coco, vgg16:" in done.stdout
    assert int(done.stderr.split()[-1]) < 1_500_000
    assert os.listdir(tmp_path) == []


def test_the_default_is_todays_params_and_a_file_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["captionlab", "plan"])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: params.yaml is not there: copy one from experiments/")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params()))
    __main__.main()
    assert capsys.readouterr().out.startswith("params.yaml: 3 variants\n")


def test_a_broken_file_of_captions_is_said_whatever_the_decoder_is(tmp_path):
    params = load_params(ROOT / "experiments/pretrained.yaml")
    for corpus in params.corpora:
        (tmp_path / corpus).mkdir(parents=True)
        (tmp_path / corpus / "captions.parquet").write_bytes(b"no table at all")
    lacks = {row.name: row.lacks for row in plan(params, tmp_path).rows}
    assert all(
        "captions.parquet is not a readable Parquet file" in said for said in lacks.values()
    ), lacks
