"""Tar shards of others: we take what the webdataset library reads in them.

The shards stay where they are, and everything that is not taken has a reason.
"""

import hashlib
import io
import json
import os
import tarfile

import pandas as pd
import pytest
import webdataset as library
from pyarrow.parquet import ParquetFile

from pipeline.cleaning.clean import clean_file
from pipeline.cleaning.image_check import look_at_images
from pipeline.core.errors import UserError
from pipeline.data.shards import Shards
from pipeline.experiment.params import load_params
from pipeline.sources import webdataset
from pipeline.sources.shared import gate
from pipeline.sources.shared.keyed import keyed_split
from tests.pictures import pictures_of
from tests.releases import everything, index_of, jpeg, split_of
from tests.workspace import ROOT


def samples(first, count):
    """Return samples as img2dataset writes them: picture, text and JSON."""
    return [
        {
            "__key__": f"{n:09}",
            "jpg": jpeg(n % 256),
            "txt": f"picture {n}",
            "json": {"caption": f"picture {n}", "url": "http://example.org"},
        }
        for n in range(first, first + count)
    ]


def written(folder, *shards):
    """Write shards 00000.tar, 00001.tar, ... with the library itself, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, found in enumerate(shards):
        with library.TarWriter(str(folder / f"{number:05}.tar")) as tar:
            for sample in found:
                tar.write(sample)
    return folder


def packed(path, files):
    """Write a shard of these files, [(name, content)], and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def fetched(tmp_path, path, **args):
    webdataset.fetch(tmp_path / "raw", path=str(path), **args)
    return index_of(tmp_path / "raw")


def aside(tmp_path):
    table = pd.read_parquet(tmp_path / "raw/set_aside.parquet")
    return {f"{row.shard}/{row.file}": row.reason for row in table.itertuples()}


def test_what_the_library_reads_is_what_is_read_here_and_nothing_is_copied(tmp_path):
    theirs = written(tmp_path / "theirs", samples(0, 5), samples(5, 3))
    before = everything(theirs)
    index = fetched(tmp_path, theirs)
    urls = [str(path) for path in sorted(theirs.iterdir())]
    expected = {s["__key__"]: s for s in library.WebDataset(urls, shardshuffle=False)}
    assert pictures_of(tmp_path / "raw") == {key: s["jpg"] for key, s in expected.items()}
    assert dict(zip(index["image_id"], index["raw"], strict=True)) == {
        key: s["txt"].decode() for key, s in expected.items()
    }
    assert [len(members) for members in Shards(tmp_path / "raw").by_shard()] == [5, 3]
    assert everything(theirs) == before
    assert sorted(everything(tmp_path / "raw")) == [
        "captions.parquet",
        "images.parquet",
        "manifest.json",
        "set_aside.parquet",
    ]


def test_the_manifest_holds_the_md5_of_every_shard(tmp_path):
    theirs = written(tmp_path / "theirs", samples(0, 2), samples(2, 2))
    fetched(tmp_path, theirs)
    manifest = json.loads((tmp_path / "raw/manifest.json").read_text())
    assert manifest["archives"] == {
        path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in theirs.iterdir()
    }
    assert manifest["images"] == {"pictures": 4, "set_aside": 0}


def test_captions_written_in_parts_are_those_written_at_once(tmp_path, monkeypatch):
    theirs = written(tmp_path / "theirs", *(samples(9 * n, 9) for n in range(5)))
    whole = fetched(tmp_path, theirs)
    monkeypatch.setattr("pipeline.sources.shared.captions.PART", 20)
    parts = fetched(tmp_path, theirs)
    pd.testing.assert_frame_equal(parts, whole)
    assert ParquetFile(tmp_path / "raw/captions.parquet").num_row_groups == 2


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("", 6),
        ("*.tar", 6),
        ("{00000..00001}.tar", 4),
        ("{00000,00002}.tar", 4),
        ("0000[12].tar", 4),
        ("{00002..00002}.tar", 2),
        ("../theirs/0000?.tar", 6),
    ],
)
def test_shards_are_named_by_folder_braces_or_wildcards(tmp_path, pattern, count):
    theirs = written(tmp_path / "theirs", *(samples(2 * n, 2) for n in range(3)))
    (theirs / "notes.txt").write_text("no shard")
    assert len(fetched(tmp_path, theirs / pattern)) == count
    assert len(pictures_of(tmp_path / "raw")) == count


def test_shards_in_several_folders_are_named_from_the_one_above(tmp_path):
    for name in "ab":
        written(tmp_path / "theirs" / name, samples(ord(name), 1))
    fetched(tmp_path, tmp_path / "theirs/{a,b}/*.tar")
    assert list(pd.read_parquet(tmp_path / "raw/images.parquet")["shard"]) == [
        "a/00000.tar",
        "b/00000.tar",
    ]
    assert len(pictures_of(tmp_path / "raw")) == 2


CAPTIONS = {
    "a text, a caption a line": ([("1.txt", b"A dog\r\n\n two dogs ")], ["A dog", "two dogs"]),
    "a caption file": ([("1.caption", b"A dog")], ["A dog"]),
    "JSON": ([("1.json", b'{"caption": " A dog "}')], ["A dog"]),
    "a list in JSON": ([("1.json", b'{"caption": ["A dog", "", "a cat"]}')], ["A dog", "a cat"]),
    "JSON that is a text": ([("1.json", b'"A dog"')], ["A dog"]),
    "the text first": ([("1.json", b'{"caption": "B"}'), ("1.txt", b"A")], ["A"]),
    "JSON where the text is empty": ([("1.txt", b"\n"), ("1.json", b'{"caption": "B"}')], ["B"]),
    "a text in UTF-8 with its mark": ([("1.TXT", b"\xef\xbb\xbfcaf\xc3\xa9")], ["caf\xe9"]),
}


@pytest.mark.parametrize("kind", CAPTIONS)
def test_captions_lie_beside_the_picture(tmp_path, kind):
    texts, expected = CAPTIONS[kind]
    packed(tmp_path / "s/0.tar", [*texts, ("1.jpg", jpeg(0))])
    index = fetched(tmp_path, tmp_path / "s")
    assert list(index["raw"]) == expected
    assert list(index["caption_id"]) == [f"1#{n}" for n in range(len(expected))]


def test_a_caption_may_have_another_key(tmp_path):
    packed(tmp_path / "s/0.tar", [("1.jpg", jpeg(0)), ("1.json", b'{"caption": "A", "alt": "B"}')])
    assert list(fetched(tmp_path, tmp_path / "s", caption_key="alt")["raw"]) == ["B"]


def test_a_tar_of_a_folder_and_long_names_are_read(tmp_path):
    (tmp_path / "photos/cats").mkdir(parents=True)
    names = ["1", "cats/2", "x" * 150, "犬", "%2E"]
    for n, name in enumerate(names):
        (tmp_path / f"photos/{name}.JPG").write_bytes(jpeg(n))
        (tmp_path / f"photos/{name}.txt").write_text(f"picture {n}")
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "photos.tar", "w", format=form) as tar:
            tar.add(tmp_path / "photos", ".")
        fetched(tmp_path, tmp_path / "photos.tar")
        assert pictures_of(tmp_path / "raw") == {name: jpeg(n) for n, name in enumerate(names)}


def distinct(first, count, name=""):
    """Return samples whose pictures' files all differ; those of equal numbers are equal."""
    return [
        sample
        | {"__key__": name + sample["__key__"], "jpg": sample["jpg"] + sample["__key__"].encode()}
        for sample in samples(first, count)
    ]


def test_a_split_is_drawn_from_the_key_and_stays_when_shards_are_added(tmp_path):
    theirs = written(tmp_path / "theirs", distinct(0, 600))
    fetched(tmp_path, theirs, val=0.2, test=0.1)
    first = split_of(tmp_path / "raw", "random")
    assert first == keyed_split(first, 0.2, 0.1, 1)
    written(theirs, distinct(600, 5), distinct(0, 600))
    fetched(tmp_path, theirs, val=0.2, test=0.1)
    second = split_of(tmp_path / "raw", "random")
    assert len(second) == 605
    assert {key: second[key] for key in first} == first
    counts = pd.Series(first).value_counts()
    assert abs(counts["val"] - 120) < 40
    assert abs(counts["test"] - 60) < 30
    fetched(tmp_path, theirs, val=0.2, test=0.1, seed=2)
    other = split_of(tmp_path / "raw", "random")
    assert 0.3 < sum(other[key] == first[key] for key in first) / 600 < 0.75


def test_equal_pictures_are_in_one_split_and_stay_when_shards_are_added(tmp_path):
    """There are 200 photos, each under two keys; a later shard adds a third key for each."""
    keys = [f"{n:09}" for n in range(200)]
    theirs = written(tmp_path / "theirs", distinct(0, 200), distinct(0, 200, "copy "))
    fetched(tmp_path, theirs, val=0.2, test=0.2)
    first = split_of(tmp_path / "raw", "random")
    assert keyed_split(keys, 0.2, 0.2, 1).items() <= first.items()
    assert all(first[f"copy {key}"] == first[key] for key in keys)
    written(theirs, distinct(0, 200), distinct(0, 200, "copy "), distinct(0, 200, "a copy "))
    fetched(tmp_path, theirs, val=0.2, test=0.2)
    second = split_of(tmp_path / "raw", "random")
    assert first.items() <= second.items()
    assert all(second[f"a copy {key}"] == first[key] for key in keys)


def test_a_picture_in_a_later_shard_than_its_captions_is_where_its_equals_are(tmp_path):
    names = [f"{n:03}" for n in range(60)]
    packed(
        tmp_path / "s/0.tar",
        [
            *[(f"{name}.txt", b"A dog") for name in names],
            *[(f"late {name}.txt", b"A dog") for name in names],
            *[(f"{name}.jpg", jpeg(int(name))) for name in names],
        ],
    )
    packed(tmp_path / "s/1.tar", [(f"late {name}.jpg", jpeg(int(name))) for name in names])
    fetched(tmp_path, tmp_path / "s", val=0.3, test=0.3)
    splits = split_of(tmp_path / "raw", "random")
    assert len(splits) == 120
    assert all(splits[f"late {name}"] == splits[name] for name in names)


def test_what_lacks_its_other_half_is_told_and_set_aside_with_its_reason(tmp_path, capsys):
    packed(
        tmp_path / "s/0.tar",
        [
            *[("a.jpg", jpeg(0)), ("a.txt", b"A fine dog")],
            *[("bare.png", jpeg(1)), ("bare.cls", b"3")],
            *[("gone.txt", b"A cat runs")],
        ],
    )
    fetched(tmp_path, tmp_path / "s", val=0.0, test=0.0)
    assert capsys.readouterr().err.splitlines() == [
        "webdataset: 1 of 2 pictures without captions, to be set aside as 'empty': bare",
        "webdataset: 1 of 3 captions without a picture, to be set aside as 'image missing': gone",
    ]
    options = load_params(ROOT / "params.yaml").corpora["scenes"]
    options = options.model_copy(update={"split": "random", "max_rejected": 1.0})
    (tmp_path / "out").mkdir()
    looks = look_at_images(Shards(tmp_path / "raw"))
    rejected = clean_file(tmp_path / "raw", looks, options, tmp_path / "out")
    assert dict(zip(rejected["caption_id"], rejected["reason"], strict=True)) == {
        "bare#0": "empty",
        "gone#0": "image missing",
    }


def test_every_file_that_is_not_taken_has_its_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(webdataset, "LARGEST", 2000)
    packed(
        tmp_path / "s/0.tar",
        [
            *[("a.jpg", jpeg(0)), ("a.png", jpeg(1)), ("a.txt", b"A")],
            *[("b.jpg", jpeg(2)), ("b.json", b"{")],
            *[("c.jpg", jpeg(3)), ("c.json", b'{"caption": 7}')],
            *[("large.jpg", bytes(2001)), ("large.txt", b"L")],
            *[("../up.jpg", jpeg(4)), ("/etc/x.jpg", jpeg(5)), ("README", b"")],
            *[("d.txt", "größer".encode("utf-16"))],
        ],
    )
    with tarfile.open(tmp_path / "s/0.tar", "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    packed(tmp_path / "s/1.tar", [("a.jpg", jpeg(6)), ("a.txt", b"Another"), ("e.jpg", jpeg(7))])
    index = fetched(tmp_path, tmp_path / "s")
    found = aside(tmp_path)
    assert found.pop("0.tar/b.json").startswith("the file is not JSON: ")
    assert found == {
        "0.tar/a.png": "a second picture of its key",
        "0.tar/c.json": "no caption, or list of captions, as 'caption'",
        "0.tar/large.jpg": gate.LARGE,
        "0.tar/../up.jpg": "a name that leaves its folder or is not text",
        "0.tar//etc/x.jpg": "a name that leaves its folder or is not text",
        "0.tar/README": "a name without a key or a suffix",
        "0.tar/d.txt": "the file is UTF-16: save it as UTF-8",
        "0.tar/link.jpg": "a link, pipe or device",
        "1.tar/a.jpg": "a second picture of its key",
        "1.tar/a.txt": "second captions of its key",
    }
    assert pictures_of(tmp_path / "raw") == {
        "a": jpeg(0),
        "b": jpeg(2),
        "c": jpeg(3),
        "e": jpeg(7),
    }
    assert dict(zip(index["image_id"], index["raw"], strict=True)) == {
        "a": "A",
        "b": "",
        "c": "",
        "large": "L",
        "e": "",
    }
    assert "webdataset: 2 files set aside: a second picture of its key: 0.tar/a.png" in (
        capsys.readouterr().err
    )


def in_the_middle(path):
    data = bytearray(path.read_bytes())
    data[1024:1536] = b"?" * 512
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: os.truncate(p, 2000),
            r"00001\.tar ends within '000000002\.jpg': get it again, or",
        ),
        (
            in_the_middle,
            r"00001\.tar (is broken at byte 1,024|is not a complete, uncompressed tar file)",
        ),
        (
            lambda p: os.truncate(p, 0),
            r"00001\.tar is not a complete, uncompressed tar file \(empty",
        ),
        (
            lambda p: p.write_bytes(b"no tar " * 200),
            r"00001\.tar is not a complete, uncompressed tar",
        ),
    ],
)
def test_broken_shards_are_one_line_and_nothing_is_written(tmp_path, damage, message):
    theirs = written(tmp_path / "theirs", samples(0, 2), samples(2, 2))
    damage(theirs / "00001.tar")
    with pytest.raises(UserError, match=message) as error:
        fetched(tmp_path, theirs)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("path", "args", "message"),
    [
        ("none", {}, r"path: in params\.yaml names shards that are not there: .*/none$"),
        (
            "theirs/*.zip",
            {},
            r"names no shards: name a folder that holds \.tar files, or a pattern",
        ),
        ("theirs/{00000..00003}.tar", {}, r"not there: .*00002\.tar, .*00003\.tar$"),
        ("theirs/{0", {}, r"path: .*theirs/\{0 in params\.yaml: .*"),
        ("theirs", {"val": 0.6, "test": 0.5}, r"webdataset: val: 0\.6, test: 0\.5: give shares of"),
        ("bare.tar", {}, r"bare\.tar holds no picture with captions: expected files of one key"),
    ],
)
def test_shards_that_cannot_be_used_are_one_line_and_nothing_is_written(
    tmp_path, path, args, message
):
    written(tmp_path / "theirs", samples(0, 2), samples(2, 2))
    packed(tmp_path / "bare.tar", [("1.jpg", jpeg(0)), ("2.txt", b"A dog")])
    with pytest.raises(UserError, match=message):
        fetched(tmp_path, tmp_path / path, **args)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bare.tar", "theirs"]


@pytest.mark.parametrize("change", ["packed again", "gone"])
def test_a_shard_that_changed_later_is_one_line_that_says_how_to_read_it_again(tmp_path, change):
    theirs = written(tmp_path / "theirs", samples(0, 3))
    fetched(tmp_path, theirs)
    if change == "gone":
        (theirs / "00000.tar").unlink()
    else:
        written(theirs, samples(1, 3))
    with pytest.raises(
        UserError, match=r"00000\.tar.*[:;] dvc repro -f -s download@raw reads the sha"
    ):
        pictures_of(tmp_path / "raw")


def test_of_many_shards_some_are_counted(tmp_path, monkeypatch):
    theirs = written(tmp_path / "theirs", *(samples(4 * n, 4) for n in range(3)))
    assert webdataset.size(path=str(theirs)).images == 12
    monkeypatch.setattr(webdataset, "LOOKED_AT", 1)
    assert webdataset.size(path=str(theirs)) == (12, 10_000 + 150 * 12, 0)
