"""COCO 2014 from its three archives and Karpathy's file.

The captions of its test images were never published.
"""

import hashlib
import json

import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.sources import coco2014
from pipeline.sources.shared import base
from tests.pictures import pictures_of
from tests.releases import everything, index_of, jpeg, split_of, write_zip

TRAIN, VAL, REST = (
    "COCO_train2014_000000000009.jpg",
    "COCO_val2014_000000000042.jpg",
    "COCO_val2014_000000000007.jpg",
)
KARPATHY = [(TRAIN, "train"), (VAL, "test"), (REST, "restval")]


def annotations(images, captions):
    """Return a captions_*.json of images {id: file_name} and captions [(image id, text)]."""
    listed = [{"id": n, "file_name": name, "height": 8, "width": 8} for n, name in images.items()]
    texts = [
        {"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(captions)
    ]
    return json.dumps({"info": {}, "images": listed, "annotations": texts})


CAPTIONS_TRAIN = annotations({9: TRAIN}, [(9, "A bike ."), (9, "Bike\n")])
CAPTIONS_VAL = annotations({42: VAL, 7: REST}, [(7, "A dog"), (42, "A cat"), (7, "Two dogs")])


def karpathy_json(splits=KARPATHY):
    sentence = {"raw": "A bike .", "tokens": ["a", "bike"], "imgid": 0, "sentid": 0}
    return json.dumps(
        {
            "images": [{"filename": n, "split": s, "sentences": [sentence]} for n, s in splits],
            "dataset": "coco",
        }
    )


def release(
    folder, train=CAPTIONS_TRAIN, val=CAPTIONS_VAL, karpathy=None, photos=(TRAIN, VAL, REST)
):
    """Write the archives of a tiny COCO, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train2014", "val2014"):
        write_zip(
            folder / f"{name}.zip",
            {f"{name}/{photo}": jpeg(n) for n, photo in enumerate(photos) if name in photo},
        )
    texts = {"annotations/captions_train2014.json": train, "annotations/captions_val2014.json": val}
    write_zip(
        folder / "annotations_trainval2014.zip",
        texts | {"annotations/instances_val2014.json": "{}"},
    )
    if karpathy is not None:
        write_zip(folder / "caption_datasets.zip", {"dataset_coco.json": karpathy})
    return str(folder)


def test_the_index_follows_the_image_ids_and_keeps_both_schemes(tmp_path):
    coco2014.fetch(
        tmp_path / "raw",
        archives=release(tmp_path / "zips", karpathy=karpathy_json()),
        karpathy="download",
    )
    index = index_of(tmp_path / "raw")
    assert index.to_dict("split")["data"] == [
        [REST, f"{REST}#0", "A dog", False, "val", "train"],
        [REST, f"{REST}#1", "Two dogs", False, "val", "train"],
        [TRAIN, f"{TRAIN}#0", "A bike .", False, "train", "train"],
        [TRAIN, f"{TRAIN}#1", "Bike\n", False, "train", "train"],
        [VAL, f"{VAL}#0", "A cat", False, "val", "test"],
    ]
    assert list(index) == [
        "image_id",
        "caption_id",
        "raw",
        "undecodable",
        "split_official",
        "split_karpathy",
    ]
    assert list(pictures_of(tmp_path / "raw")) == [TRAIN, *sorted([VAL, REST])]


def test_without_karpathy_there_is_the_official_scheme_alone(tmp_path):
    coco2014.fetch(tmp_path / "raw", archives=release(tmp_path / "zips"))
    assert [
        c for c in pd.read_parquet(tmp_path / "raw/captions.parquet") if c.startswith("split_")
    ] == ["split_official"]
    assert split_of(tmp_path / "raw", "official") == {TRAIN: "train", VAL: "val", REST: "val"}


def test_karpathys_file_is_taken_bare_or_from_a_zip_elsewhere(tmp_path):
    bare, packed = tmp_path / "dataset_coco.json", tmp_path / "caption_datasets.zip"
    bare.write_text(karpathy_json())
    write_zip(packed, {"dataset_coco.json": karpathy_json(), "dataset_flickr8k.json": "{}"})
    for given in (bare, packed):
        coco2014.fetch(tmp_path / "raw", archives=release(tmp_path / "zips"), karpathy=str(given))
        assert split_of(tmp_path / "raw", "karpathy") == {
            TRAIN: "train",
            VAL: "test",
            REST: "train",
        }
        manifest = json.loads((tmp_path / "raw/manifest.json").read_text())
        assert manifest["karpathy"] == hashlib.md5(given.read_bytes()).hexdigest()


def test_max_images_keeps_the_first_of_each_split_and_unpacks_no_other(tmp_path):
    folder = release(tmp_path / "zips", karpathy=karpathy_json())
    coco2014.fetch(tmp_path / "k", archives=folder, karpathy="download", max_images=1)
    assert split_of(tmp_path / "k", "karpathy") == {REST: "train", VAL: "test"}
    assert sorted(pictures_of(tmp_path / "k")) == [REST, VAL]
    coco2014.fetch(tmp_path / "o", archives=folder, max_images=1)
    assert split_of(tmp_path / "o", "official") == {TRAIN: "train", REST: "val"}
    assert "A cat" not in set(index_of(tmp_path / "o")["raw"])
    with pytest.raises(
        UserError, match=r"^coco2014: max_images: 0: give at least 1, or null for all$"
    ):
        coco2014.fetch(tmp_path / "n", archives=folder, max_images=0)


def test_a_photo_that_its_archive_lacks_leaves_rows_without_a_picture(tmp_path):
    coco2014.fetch(tmp_path / "raw", archives=release(tmp_path / "zips", photos=(TRAIN, VAL)))
    index = index_of(tmp_path / "raw")
    assert set(index["image_id"]) - set(pictures_of(tmp_path / "raw")) == {REST}


def test_half_characters_of_json_are_kept_and_marked(tmp_path):
    val = annotations({42: VAL}, [(42, "caf\ud800"), (42, "café")])
    val = val.replace("caf\\u00e9", "café").encode() + b" "
    undecodable = val.replace("café".encode(), b"caf\xe9")
    coco2014.fetch(
        tmp_path / "raw", archives=release(tmp_path / "zips", val=undecodable, photos=(TRAIN, VAL))
    )
    index = index_of(tmp_path / "raw")
    assert index[index["image_id"] == VAL][["raw", "undecodable"]].to_numpy().tolist() == [
        ["caf\\ud800", True],
        ["caf\\xe9", True],
    ]


def test_the_archives_are_downloaded_where_no_folder_is_given(server, tmp_path, monkeypatch):
    release(tmp_path / "served", karpathy=karpathy_json())
    for constant, module in (
        ("TRAIN", coco2014),
        ("VAL", coco2014),
        ("TEXTS", coco2014),
        ("KARPATHY", base),
    ):
        name = getattr(module, constant).name
        data = (tmp_path / "served" / name).read_bytes()
        server.files[f"/{name}"] = data
        md5 = hashlib.md5(data).hexdigest() if module is coco2014 else ""
        monkeypatch.setattr(
            module, constant, base.Archive(name, md5, (server.url + "gone/", server.url))
        )
    coco2014.fetch(tmp_path / "raw/coco", karpathy="download")
    assert split_of(tmp_path / "raw/coco", "karpathy") == {
        TRAIN: "train",
        VAL: "test",
        REST: "train",
    }
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["coco"]
    before = everything(tmp_path / "raw/coco")
    monkeypatch.setenv("CAPTIONLAB_COCO2014", str(tmp_path / "served"))
    coco2014.fetch(tmp_path / "raw/coco", karpathy="download")
    assert everything(tmp_path / "raw/coco") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "[]"}, "captions_train2014.json is no COCO captions file: expected images"),
        ({"train": "{"}, "captions_train2014.json is not JSON"),
        (
            {"val": annotations({42: VAL}, [(42, None)])},
            "captions_val2014.json is no COCO captions file.*None is not text",
        ),
        (
            {"val": annotations({9: TRAIN}, [(9, "A bike")])},
            f"image {TRAIN} is listed for train and for val: leave it in one",
        ),
        (
            {"karpathy": karpathy_json([*KARPATHY, (VAL, "val")])},
            f"image {VAL} is listed for test and for val",
        ),
        (
            {"karpathy": karpathy_json([(VAL, "dev")])},
            r"is not a dataset_coco.json: .*KeyError\('dev'\)",
        ),
        (
            {"karpathy": karpathy_json([("other.jpg", "val")])},
            "names none of these images: it is of another dataset",
        ),
        (
            {"photos": ()},
            "train2014.zip holds no files in train2014/: it is not the archive that was published",
        ),
    ],
)
def test_a_release_that_is_none_is_one_line_and_leaves_nothing(tmp_path, change, message):
    folder = release(tmp_path / "zips", **({"karpathy": karpathy_json()} | change))
    with pytest.raises(UserError, match=message) as error:
        coco2014.fetch(tmp_path / "raw", archives=folder, karpathy="download")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["zips"]


def test_a_zip_without_karpathys_file_is_named(tmp_path):
    folder = release(tmp_path / "zips")
    write_zip(tmp_path / "zips/caption_datasets.zip", {"readme.txt": "x"})
    with pytest.raises(
        UserError, match=r"caption_datasets.zip holds no dataset_coco.json: it is not"
    ):
        coco2014.fetch(tmp_path / "raw", archives=folder, karpathy="download")
    with pytest.raises(
        UserError,
        match=r"nowhere.json \(karpathy: in params.yaml\) is not there: name the file "
        r"dataset_coco.json",
    ):
        coco2014.fetch(tmp_path / "raw", archives=folder, karpathy=str(tmp_path / "nowhere.json"))


def test_a_wrong_checksum_names_the_way_around_it(server, tmp_path, monkeypatch):
    server.files["/train2014.zip"] = b"an error page"
    monkeypatch.setattr(coco2014, "TRAIN", base.Archive("train2014.zip", "0" * 32, (server.url,)))
    with pytest.raises(
        UserError,
        match=r"md5 is \w+, not 0{32}; or name a folder that holds it in CAPTIONLAB_COCO2014 or",
    ):
        coco2014.fetch(tmp_path / "raw")
