"""What holds for every source, old and new: a new file needs one line in RELEASES."""

import json
import os

import pandas as pd
import pytest

from pipeline.cleaning.clean import RAW_COLUMNS
from pipeline.cleaning.image_check import look_at_images
from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.data.files import digest
from pipeline.data.shards import Shards
from pipeline.sources.shared.base import SPLITS
from tests.releases import everything
from tests.sources import (
    test_a3ds,
    test_coco2014,
    test_flickr30k,
    test_folder,
    test_hugging_face,
    test_shared,
    test_webdataset,
)


def own_images(folder):
    root = test_folder.photos(folder)
    (root / "c.csv").write_text(test_folder.SPLIT_CSV)
    return str(root)


def shards_of_others(folder):
    """Return the path of shards, relative to the workspace, which is the working directory."""
    samples = [test_webdataset.samples(4 * n, 4) for n in range(2)]
    return os.path.relpath(test_webdataset.written(folder, *samples))


# Functions that write a tiny release of each source to a folder and return arguments for it.
RELEASES = {
    "a3ds": lambda folder: {"archives": test_a3ds.release(folder)},
    "coco2014": lambda folder: {
        "archives": test_coco2014.release(folder, karpathy=test_coco2014.karpathy_json()),
        "karpathy": "download",
    },
    "flickr30k": lambda folder: {"archives": test_flickr30k.parts(folder)},
    "flickr8k": lambda folder: {"archives": test_shared.release(folder)},
    "hugging_face": lambda folder: {
        "name": test_hugging_face.as_images(
            test_hugging_face.splits(train=8, validation=3, test=4), folder
        )
    },
    "folder": lambda folder: {"path": own_images(folder), "captions": "c.csv"},
    "scenes": lambda folder: {"images": 16, "size": 64, "seed": 1},
    "webdataset": lambda folder: {"path": shards_of_others(folder)},
}


@pytest.fixture(params=registry.names("sources"))
def fetched(request, tmp_path, monkeypatch):
    """A source's name, its arguments and the folder that it made from them."""
    monkeypatch.chdir(tmp_path)
    args = RELEASES[request.param](tmp_path / "release")
    source = registry.load("sources", request.param)
    registry.check_args(source.fetch, args, "datasets.x.args")
    source.fetch(tmp_path / "raw", **args)
    return request.param, args, tmp_path / "raw"


def test_what_a_source_says_of_its_size_is_of_the_same_arguments(fetched):
    """A source with archives states the number of images of the real release, not of ours."""
    name, args, raw = fetched
    size = registry.load("sources", name).size(**args)
    assert size.download == 0
    if "archives" not in args:
        assert size.images == len(Shards(raw))
        kept = sum(member.size for member in Shards(raw))
        if Shards(raw).root != raw:  # the shards are not copied
            kept = sum(map(len, everything(raw).values()))
        assert 0.3 < size.disk / kept < 3
    else:
        assert size.images >= 1000
        assert 5_000 < size.disk / size.images < 300_000


def test_the_index_has_its_columns_and_their_types(fetched):
    _, _, raw = fetched
    table = pd.read_parquet(raw / "captions.parquet")
    schemes = [column for column in table if column.startswith("split_")]
    assert list(table) == RAW_COLUMNS + schemes
    assert schemes
    assert table["undecodable"].dtype == bool
    assert table[["image_id", "caption_id", "raw"]].notna().all(axis=None)
    for scheme in schemes:
        assert set(table[scheme].dropna()) <= set(SPLITS)
        assert table.groupby("image_id")[scheme].nunique().max() == 1


def test_caption_ids_are_unique_and_name_their_image(fetched):
    _, _, raw = fetched
    table = pd.read_parquet(raw / "captions.parquet")
    assert table["caption_id"].is_unique
    assert list(table["caption_id"].str.rsplit("#", n=1).str[0]) == list(table["image_id"])


def test_every_picture_has_captions_and_can_be_decoded(fetched):
    _, _, raw = fetched
    pictures = look_at_images(Shards(raw))
    assert len(pictures) == len(Shards(raw))
    assert set(pictures) <= set(pd.read_parquet(raw / "captions.parquet")["image_id"])
    assert {picture.problem for picture in pictures.values()} == {None}


def test_a_second_run_gives_the_same_bytes_and_none_names_the_machine(fetched, tmp_path):
    name, args, raw = fetched
    registry.load("sources", name).fetch(tmp_path / "again", **args)
    again = everything(tmp_path / "again")
    assert again == everything(raw)
    assert not [file for file, data in again.items() if str(tmp_path).encode() in data]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "release") == [
        "again",
        "raw",
    ]


def test_the_manifest_names_the_source_and_the_md5_of_what_was_read(fetched, tmp_path):
    name, _, raw = fetched
    manifest = json.loads((raw / "manifest.json").read_text())
    assert manifest["source"] == name
    there = {path.name: digest(path) for path in (tmp_path / "release").glob("*") if path.is_file()}
    joined = {"flickr30k.zip"}
    assert all(
        there[file] == md5 for file, md5 in manifest["archives"].items() if file not in joined
    )
    assert set(manifest["archives"]) <= there.keys() | joined


def takes_archives(name):
    return "archives" in registry.signature("sources", name).parameters


@pytest.mark.parametrize("name", [*filter(takes_archives, registry.names("sources"))])
def test_the_environment_names_the_folder_and_a_folder_without_archives_is_one_line(
    name, tmp_path, monkeypatch
):
    args = RELEASES[name](tmp_path / "release")
    source = registry.load("sources", name)
    monkeypatch.setenv(f"CAPTIONLAB_{name.upper()}", args["archives"])
    source.fetch(tmp_path / "raw", **args | {"archives": str(tmp_path / "nowhere")})
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(f"CAPTIONLAB_{name.upper()}", str(tmp_path / "empty"))
    with pytest.raises(
        UserError, match=rf"empty \(CAPTIONLAB_{name.upper()}\) lacks .*: put .* there"
    ) as error:
        source.fetch(tmp_path / "none", **args)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()
