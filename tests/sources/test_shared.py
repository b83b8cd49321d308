"""Every source fills data/raw/D whole or not at all.

Archives are downloaded, resumed, checked and never trusted.
"""

import hashlib
import json
import random
import re
import zipfile

import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.sources import flickr8k, scenes
from pipeline.sources.shared import archives, base
from tests.pictures import pictures_of
from tests.releases import everything, jpeg, write_zip

CAPTIONS = (
    b"a.jpg#0\tA dog runs .\na.jpg#1\tTwo dogs .\nb.jpg#0\tA red "
    b"car\nc.jpg.1#0\tnobody\nc.jpg#0\tThe sea\n"
)
SPLITS = {"train": b"a.jpg\n", "dev": b"b.jpg\n", "test": b"c.jpg\n"}


def release(folder, captions=CAPTIONS, splits=SPLITS, photos=("a.jpg", "b.jpg", "c.jpg")):
    """Write the two archives of a tiny Flickr8k, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {f"Flicker8k_Dataset/{name}": jpeg(shade) for shade, name in enumerate(photos)}
    write_zip(
        folder / "Flickr8k_Dataset.zip", images | {"__MACOSX/Flicker8k_Dataset/._a.jpg": b"x"}
    )
    texts = {f"Flickr_8k.{name}Images.txt": data for name, data in splits.items()}
    write_zip(folder / "Flickr8k_text.zip", texts | {"Flickr8k.token.txt": captions})
    return str(folder)


def never(name, content):
    raise AssertionError(f"{name} was unpacked")


@pytest.fixture(autouse=True)
def _no_local_folder(monkeypatch):
    monkeypatch.delenv("CAPTIONLAB_FLICKR8K", raising=False)


DATA = bytes(range(256)) * 4000


def archive(server, *mirrors, data=DATA):
    return archives.Archive(
        "a.zip", hashlib.md5(data).hexdigest(), tuple(server.url + mirror for mirror in mirrors)
    )


def test_a_download_is_resumed_where_the_connection_was_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "PIECE", 100_000)
    server.files["/x/a.zip"] = DATA
    server.cut_at = [300_000, 700_000]
    found = archives.download([archive(server, "x/")], tmp_path, pause=0)
    assert found["a.zip"].read_bytes() == DATA
    assert server.requests == [
        ("/x/a.zip", None),
        ("/x/a.zip", "bytes=300000-"),
        ("/x/a.zip", "bytes=700000-"),
    ]


def test_a_rerun_resumes_what_an_interrupted_run_left(server, tmp_path):
    server.files["/x/a.zip"] = DATA
    (tmp_path / "a.zip").write_bytes(DATA[:1000])
    assert archives.download([archive(server, "x/")], tmp_path)["a.zip"].read_bytes() == DATA
    assert server.requests == [("/x/a.zip", "bytes=1000-")]


def test_a_complete_file_of_an_interrupted_run_is_not_downloaded_again(server, tmp_path):
    server.files["/x/a.zip"] = DATA
    (tmp_path / "a.zip").write_bytes(DATA)
    assert archives.download([archive(server, "x/")], tmp_path)["a.zip"].read_bytes() == DATA
    assert server.requests == [("/x/a.zip", "bytes=1024000-")]


def test_a_server_without_range_is_read_from_the_start(server, tmp_path):
    server.files["/x/a.zip"], server.ranges = DATA, False
    (tmp_path / "a.zip").write_bytes(DATA[:1000])
    assert archives.download([archive(server, "x/")], tmp_path)["a.zip"].read_bytes() == DATA


def test_a_bad_part_of_an_interrupted_run_is_thrown_away(server, tmp_path):
    server.files["/x/a.zip"] = DATA
    (tmp_path / "a.zip").write_bytes(b"something else")
    assert archives.download([archive(server, "x/")], tmp_path)["a.zip"].read_bytes() == DATA
    assert server.requests == [("/x/a.zip", "bytes=14-"), ("/x/a.zip", None)]


def test_a_redirect_is_followed(server, tmp_path):
    server.files["/elsewhere"], server.redirects["/x/a.zip"] = DATA, server.url + "elsewhere"
    assert archives.download([archive(server, "x/")], tmp_path)["a.zip"].read_bytes() == DATA


def test_the_next_mirror_is_tried_after_a_missing_and_a_wrong_file(server, tmp_path):
    server.files |= {"/wrong/a.zip": b"an error page", "/right/a.zip": DATA}
    assert (
        archives.download([archive(server, "gone/", "wrong/", "right/")], tmp_path)[
            "a.zip"
        ].read_bytes()
        == DATA
    )
    assert server.requests == [
        ("/gone/a.zip", None),
        ("/wrong/a.zip", None),
        ("/right/a.zip", None),
    ]


def test_a_wrong_checksum_is_one_line_and_leaves_no_file(server, tmp_path):
    server.files["/x/a.zip"] = b"not the release"
    wanted = archives.Archive("a.zip", "0" * 32, (server.url + "x/", server.url + "y/"))
    with pytest.raises(UserError) as error:
        archives.download([wanted], tmp_path)
    found = hashlib.md5(b"not the release").hexdigest()
    assert str(error.value) == (
        f"cannot download a.zip: {server.url}x/a.zip: md5 is {found}, not {'0' * 32}; "
        f"{server.url}y/a.zip: HTTP status 404"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_down_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    wanted = archives.Archive("a.zip", "0" * 32, ("http://127.0.0.1:9/",))
    with pytest.raises(
        UserError,
        match=r"^cannot download a.zip: http://127.0.0.1:9/a.zip: ConnectionError \(5 times\)$",
    ):
        archives.download([wanted], tmp_path, pause=0)


def test_flickr8k_is_downloaded_and_the_archives_are_deleted_afterwards(
    server, tmp_path, monkeypatch
):
    release(tmp_path / "served")
    for name, constant in (("Flickr8k_Dataset.zip", "PHOTOS"), ("Flickr8k_text.zip", "TEXTS")):
        data = (tmp_path / "served" / name).read_bytes()
        server.files[f"/{name}"] = data
        monkeypatch.setattr(
            flickr8k, constant, base.Archive(name, hashlib.md5(data).hexdigest(), (server.url,))
        )
    flickr8k.fetch(tmp_path / "raw" / "f")
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["f"]
    assert pictures_of(tmp_path / "raw" / "f")["a.jpg"] == jpeg(0)


def test_a_failed_download_names_the_way_around_it(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        flickr8k, "PHOTOS", base.Archive("Flickr8k_Dataset.zip", "0" * 32, (server.url,))
    )
    with pytest.raises(
        UserError,
        match=r"HTTP status 404; or name a folder that holds it in CAPTIONLAB_FLICKR8K or "
        r"archives:",
    ):
        flickr8k.fetch(tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_flickr8k_becomes_the_index_of_the_row_trail(tmp_path):
    flickr8k.fetch(tmp_path / "raw", archives=release(tmp_path / "zips"))
    index = pd.read_parquet(tmp_path / "raw" / "captions.parquet").astype(object)
    assert index.where(index.notna(), None).to_dict("split")["data"] == [
        ["a.jpg", "a.jpg#0", "A dog runs .", False, "train", "test"],
        ["a.jpg", "a.jpg#1", "Two dogs .", False, "train", "test"],
        ["b.jpg", "b.jpg#0", "A red car", False, "val", "test"],
        ["c.jpg.1", "c.jpg.1#0", "nobody", False, None, None],
        ["c.jpg", "c.jpg#0", "The sea", False, "test", "test"],
    ]
    assert list(index) == [
        "image_id",
        "caption_id",
        "raw",
        "undecodable",
        "split_official",
        "split_last",
    ]
    assert list(pictures_of(tmp_path / "raw")) == ["a.jpg", "b.jpg", "c.jpg"]


def test_the_manifest_records_the_md5_of_local_archives(tmp_path):
    flickr8k.fetch(tmp_path / "raw", archives=release(tmp_path / "zips"))
    md5 = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in (tmp_path / "zips").iterdir()
    }
    assert json.loads((tmp_path / "raw" / "manifest.json").read_text()) == {
        "source": "flickr8k",
        "archives": md5,
    }


def test_the_environment_variable_takes_precedence_over_params(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONLAB_FLICKR8K", release(tmp_path / "zips"))
    flickr8k.fetch(tmp_path / "raw", archives=str(tmp_path / "nowhere"))
    assert (tmp_path / "raw" / "captions.parquet").exists()


def test_a_missing_archive_names_folder_and_files(tmp_path):
    folder = release(tmp_path / "zips")
    (tmp_path / "zips" / "Flickr8k_Dataset.zip").unlink()
    with pytest.raises(UserError) as error:
        flickr8k.fetch(tmp_path / "raw", archives=folder)
    assert str(error.value) == (
        f"{folder} (archives: in params.yaml) lacks Flickr8k_Dataset.zip: put "
        "Flickr8k_Dataset.zip and Flickr8k_text.zip there"
    )


def test_the_last_thousand_images_of_the_file_are_test(tmp_path, monkeypatch):
    monkeypatch.setattr(flickr8k, "HELD_OUT", 1)
    flickr8k.fetch(tmp_path / "raw", archives=release(tmp_path / "zips"))
    index = pd.read_parquet(tmp_path / "raw" / "captions.parquet").dropna(subset="split_last")
    assert dict(zip(index["image_id"], index["split_last"], strict=True)) == {
        "a.jpg": "train",
        "b.jpg": "val",
        "c.jpg": "test",
    }


def test_karpathys_split_is_read_from_his_file(tmp_path):
    images = [
        {"filename": f"{name}.jpg", "split": split}
        for name, split in (("a", "test"), ("b", "restval"), ("z", "val"))
    ]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    karpathy = str(tmp_path / "dataset_flickr8k.json")
    flickr8k.fetch(tmp_path / "raw", archives=release(tmp_path / "zips"), karpathy=karpathy)
    index = (
        pd.read_parquet(tmp_path / "raw" / "captions.parquet")
        .drop_duplicates("image_id")
        .set_index("image_id")
    )
    assert index["split_karpathy"].dropna().to_dict() == {"a.jpg": "test", "b.jpg": "train"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: name the file dataset_flickr8k.json"),
        ("[]", "is not a dataset_flickr8k.json"),
        ("{", "is not a dataset_flickr8k.json"),
        (
            '{"images": [{"filename": "z.jpg", "split": "val"}]}',
            "names none of these images: it is of",
        ),
        (
            '{"images": [{"filename": "A.jpg", "split": "val"}]}',
            r"images \('A.jpg' and 'a.jpg' differ in case only\): name them alike",
        ),
    ],
)
def test_a_karpathy_file_that_is_none_is_one_line(tmp_path, content, message):
    path = tmp_path / "k.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        flickr8k.fetch(tmp_path / "raw", archives=release(tmp_path / "zips"), karpathy=str(path))
    assert not (tmp_path / "raw").exists()


def test_bytes_that_are_no_utf8_are_kept_and_marked(tmp_path):
    folder = release(
        tmp_path / "zips",
        captions=b"\xef\xbb\xbfa.jpg#0\tcaf\xe9\r\na.jpg#1\tcaf\xc3\xa9\xe2\x80\xa8here\r\n\n",
    )
    flickr8k.fetch(tmp_path / "raw", archives=folder)
    index = pd.read_parquet(tmp_path / "raw" / "captions.parquet")
    assert list(index["raw"]) == ["caf\\xe9", "café\u2028here"]
    assert list(index["undecodable"]) == [True, False]
    assert list(index["caption_id"]) == ["a.jpg#0", "a.jpg#1"]


@pytest.mark.parametrize("line", ["a.jpg A dog", "a.jpg\tA dog", "a.jpg#one\tA dog"])
def test_a_malformed_line_is_named(tmp_path, line):
    folder = release(tmp_path / "zips", captions=b"a.jpg#0\tA dog\n" + line.encode())
    with pytest.raises(UserError) as error:
        flickr8k.fetch(tmp_path / "raw", archives=folder)
    assert str(error.value) == (
        f"{folder}/Flickr8k_text.zip/Flickr8k.token.txt, line 2: expected "
        f"'name.jpg#n<TAB>caption', not {line!r}"
    )
    assert not (tmp_path / "raw").exists()


def test_an_image_in_two_split_files_is_named(tmp_path):
    folder = release(tmp_path / "zips", splits=SPLITS | {"test": b"c.jpg\na.jpg\n"})
    with pytest.raises(UserError, match=r"image a\.jpg is listed for train and for test"):
        flickr8k.fetch(tmp_path / "raw", archives=folder)


def test_an_archive_without_the_published_files_is_named(tmp_path):
    folder = release(tmp_path / "zips")
    write_zip(tmp_path / "zips" / "Flickr8k_Dataset.zip", {"other/a.jpg": b"x"})
    with pytest.raises(
        UserError, match=r"Flickr8k_Dataset.zip holds no files in Flicker8k_Dataset/"
    ):
        flickr8k.fetch(tmp_path / "raw", archives=folder)
    write_zip(tmp_path / "zips" / "Flickr8k_text.zip", {"readme.txt": b"x"})
    with pytest.raises(UserError, match=r"Flickr8k_text.zip holds no Flickr8k.token.txt"):
        flickr8k.fetch(tmp_path / "raw", archives=folder)


@pytest.mark.parametrize(
    "name",
    ["../evil.jpg", "Flicker8k_Dataset/../../evil.jpg", "/etc/evil", "C:/evil", "a\\..\\evil"],
)
def test_an_archive_whose_members_leave_its_folder_is_refused(tmp_path, name):
    folder = release(tmp_path / "zips")
    write_zip(
        tmp_path / "zips" / "Flickr8k_Dataset.zip", {"Flicker8k_Dataset/a.jpg": jpeg(0), name: b"x"}
    )
    with pytest.raises(UserError, match=r"would leave its folder; do not trust this archive"):
        flickr8k.fetch(tmp_path / "raw", archives=folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "Flickr8k_Dataset.zip",
        "Flickr8k_text.zip",
        "zips",
    ]


def test_a_link_in_an_archive_is_refused(tmp_path):
    link = zipfile.ZipInfo("Flicker8k_Dataset/a.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match=r"a.zip: member 'Flicker8k_Dataset/a.jpg' is a link"):
        archives.unpack(tmp_path / "a.zip", "Flicker8k_Dataset", never, {"a", "a.jpg"})


def test_an_encrypted_archive_is_refused(tmp_path):
    data = bytearray(write_zip(tmp_path / "a.zip", {"d/a": b"x"}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"member 'd/a' is encrypted"):
        archives.unpack(tmp_path / "a.zip", "d", never, {"a", "a.jpg"})


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BOMB", 100_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/a", bytes(1_000_000))
    with pytest.raises(
        UserError, match=r"a.zip would unpack to 1,000,000 bytes, \d+ times its size; refused"
    ):
        archives.unpack(tmp_path / "a.zip", "d", never, {"a", "a.jpg"})


def test_a_compression_that_python_does_not_know_is_one_line(tmp_path):
    data = bytearray(write_zip(tmp_path / "a.zip", {"d/a": b"x"}).read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 6  # method 6, imploding, of PKZIP 1
    (tmp_path / "a.zip").write_bytes(data)
    said = r"a.zip cannot be unpacked \(.*compression.*\): pack it again, as zip usually does$"
    for read in (
        lambda: archives.unpack(tmp_path / "a.zip", "d", never, {"a", "a.jpg"}),
        lambda: archives.read_member(tmp_path / "a.zip", "d/a"),
    ):
        with pytest.raises(UserError, match=said):
            read()


@pytest.mark.parametrize("name", ["d/" + "a" * 300, "b" * 300 + "/a", "d/" + "\u72ac" * 86])
def test_a_name_that_no_file_can_have_is_one_line(tmp_path, name):
    write_zip(tmp_path / "a.zip", {"d/b": b"x", name: b"x"})
    with pytest.raises(UserError, match=r"a.zip: member .* has a name of more than 255 bytes"):
        archives.unpack(tmp_path / "a.zip", "d", never, {"a", "a.jpg"})


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_broken_data_of_every_compression_is_one_line(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("d/a", bytes(range(256)) * 50)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[33:60] = b"?" * 27
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"a.zip (is not a whole zip|cannot be unpacked)"):
        archives.unpack(tmp_path / "a.zip", "d", never, {"a", "a.jpg"})


@pytest.mark.parametrize("damage", ["truncated", "no zip", "flipped"])
def test_a_broken_archive_is_one_line_and_leaves_nothing(tmp_path, damage):
    folder = release(tmp_path / "zips")
    path = tmp_path / "zips" / "Flickr8k_Dataset.zip"
    data = path.read_bytes()
    at = data.index(jpeg(1)) + 20
    path.write_bytes(
        {
            "truncated": data[:-40],
            "no zip": b"<html>",
            "flipped": data[:at] + b"????" + data[at + 4 :],
        }[damage]
    )
    with pytest.raises(UserError, match=r"Flickr8k_Dataset.zip is not a whole zip archive"):
        flickr8k.fetch(tmp_path / "raw", archives=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["zips"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "raw"
    scenes.fetch(folder, images=400, size=64, seed=1)
    return folder


def pairs(text):
    singular = text.replace("crosses", "cross")
    return set(re.findall(rf"({'|'.join(scenes.COLOURS)}) ({'|'.join(scenes.SHAPES)})", singular))


def pairs_by_split(folder):
    index = pd.read_parquet(folder / "captions.parquet")
    return {
        split: set().union(*map(pairs, rows["raw"]))
        for split, rows in index.groupby("split_official")
    }


def test_scenes_are_the_same_bytes_on_every_run_and_others_for_another_seed(tmp_path):
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        scenes.fetch(tmp_path / name, images=16, size=64, seed=seed)
    one, two, three = (everything(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert sorted(one) == [
        *("captions.parquet", "images.parquet", "manifest.json", "shards/000000.tar"),
    ]
    assert [name for name in one if one[name] == three[name]] == ["manifest.json"]


def test_three_quarters_of_the_scenes_are_for_training(drawn):
    index = pd.read_parquet(drawn / "captions.parquet").drop_duplicates("image_id")
    assert index["split_official"].value_counts().to_dict() == {"train": 300, "val": 50, "test": 50}


def test_every_held_out_picture_shows_a_pair_of_colour_and_shape_unseen_in_training(drawn):
    index, by_split = pd.read_parquet(drawn / "captions.parquet"), pairs_by_split(drawn)
    held_out = index[index["split_official"] != "train"]
    assert all(pairs(text) - by_split["train"] for text in held_out["raw"])
    assert len(by_split["train"]) == 35
    assert (
        len(by_split["val"] - by_split["train"]) == len(by_split["test"] - by_split["train"]) == 7
    )
    assert not (by_split["val"] - by_split["train"]) & (by_split["test"] - by_split["train"])


def test_training_shows_every_colour_and_every_shape(drawn):
    train = pairs_by_split(drawn)["train"]
    assert {colour for colour, _ in train} == set(scenes.COLOURS)
    assert {shape for _, shape in train} == set(scenes.SHAPES)


def test_some_orders_of_two_shapes_are_kept_for_test():
    seen = {"train": set(), "val": set(), "test": set()}
    for split, orders in seen.items():
        for number in range(600):
            orders |= set(scenes.orders(scenes.compose(random.Random(f"{split} {number}"), split)))
    assert not any(scenes.reserved(*order) for order in seen["train"] | seen["val"])
    assert len([order for order in seen["test"] if scenes.reserved(*order)]) > 10


def test_no_caption_stands_in_two_splits_and_none_twice_for_an_image(drawn):
    index = pd.read_parquet(drawn / "captions.parquet")
    assert index.groupby("raw")["split_official"].nunique().max() == 1
    assert index.groupby("image_id")["raw"].nunique().eq(5).all()


def test_no_two_scenes_are_the_same_picture(drawn):
    assert len(set(pictures_of(drawn).values())) == 400


def test_references_have_the_right_number_article_and_length(drawn):
    texts = list(pd.read_parquet(drawn / "captions.parquet")["raw"])
    words = f"(?:(?:big|large|small|little|striped|dotted) )*(?:{'|'.join(scenes.COLOURS)})"
    assert {text.split()[0] for text in texts} == {"a", "an", "two", "three", "there"}
    assert not [text for text in texts if re.search(r"\ba [aeiou]|\ban [^aeiou]", text)]
    assert not [
        text
        for text in texts
        if re.search(rf"\b(two|three) {words} ({'|'.join(scenes.SHAPES)})\b", text)
    ]
    assert not [text for text in texts if re.search(rf"\ban? {words} \w+s\b(?<!cross)", text)]
    assert not [text for text in texts if re.search(r"there are an? |there is (two|three) ", text)]
    assert max(len(text.split()) for text in texts) <= 28


def test_relations_are_told_from_either_side():
    red, blue = (
        scenes.Group("red", "star", "big", "plain"),
        scenes.Group("blue", "cross", "small", "dotted", 2),
    )
    scene = scenes.Scene((red, blue), "left", "above", "grey")
    texts = [text for seed in range(20) for text in scenes.describe(random.Random(seed), scene)]
    ways = [
        re.search(r"red star.* (left) of .*blue crosses|blue crosses.* (right) of .*red star", text)
        for text in texts
    ]
    assert all(ways)
    assert {way[1] or way[2] for way in ways} == {"left", "right"}


def test_objects_lie_where_the_relation_says():
    red, blue = (
        scenes.Group("red", "circle", "big", "plain"),
        scenes.Group("blue", "square", "big", "plain"),
    )
    for relation, first, second in (
        ("left", (0, 0, 32, 64), (32, 0, 64, 64)),
        ("above", (0, 0, 64, 32), (0, 32, 64, 64)),
    ):
        picture = scenes.draw(
            random.Random(1), scenes.Scene((red, blue), relation, "above", "grey"), 64
        )
        for box, channel in ((first, 0), (second, 2)):
            pixels = [pixel for _, pixel in picture.crop(box).getcolors(4096)]
            assert any(pixel[channel] > 180 and pixel[2 - channel] < 70 for pixel in pixels)
            assert not any(pixel[2 - channel] > 180 and pixel[channel] < 70 for pixel in pixels)


@pytest.mark.parametrize("args", [{"images": 7, "size": 128}, {"images": 100, "size": 63}])
def test_too_few_or_too_small_scenes_are_refused(tmp_path, args):
    with pytest.raises(UserError, match="give at least 8 images of 64 pixels"):
        scenes.fetch(tmp_path / "raw", **args, seed=1)
    assert not (tmp_path / "raw").exists()
