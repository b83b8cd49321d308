"""Pictures in shards: WebDataset reads them, and each is found at its place.

Damage gives an error of one line.
"""

import io
import os
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
import webdataset

from pipeline.core.errors import UserError
from pipeline.data.shards import Shards, write_picture
from pipeline.sources.shared import gate, shards
from tests.pictures import pictures_of, put_pictures

# From 0 bytes to more than nine blocks of a tar file.
CONTENTS = {f"scene-{n:02}": bytes([n]) * (700 * n) for n in range(8)}
NAMES = {
    ("1.jpg", ".jpg"): "1.jpg",
    ("1.JPG", ".JPG"): "1.jpg",
    ("cats/1", ".png"): "cats/1.png",
    ("cats.v2/a.b", ".png"): "cats%2Ev2/a%2Eb.png",
    ("a.jpg.2", ".jpeg"): "a%2Ejpg%2E2.jpeg",
    ("100 %", ".gif"): "100 %25.gif",
    ("犬", ".webp"): "%E7%8A%AC.webp",
    ("../up", ".png"): "%2E%2E/up.png",
    ("bare", ""): "bare.img",
    (".jpg", ".jpg"): "%2Ejpg.jpg",
    ("x" * 300, ".jpg"): "x" * 300 + ".jpg",
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PICTURES", 3)


def read_by_webdataset(folder: Path) -> dict[str, bytes]:
    """Return key -> the content of the sample's only file."""
    found = {}
    urls = [str(path) for path in sorted((folder / "shards").iterdir())]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        ((_, content),) = [item for item in sample.items() if not item[0].startswith("__")]
        found[sample["__key__"]] = content
    return found


@pytest.mark.usefixtures("small")
def test_webdataset_reads_every_picture_under_its_image_id(tmp_path: Path) -> None:
    put_pictures(tmp_path, CONTENTS)
    assert [path.name for path in sorted((tmp_path / "shards").iterdir())] == [
        "000000.tar",
        "000001.tar",
        "000002.tar",
    ]
    assert read_by_webdataset(tmp_path) == CONTENTS


def test_webdataset_tells_pictures_of_every_name_apart(tmp_path: Path) -> None:
    with shards.ShardWriter(tmp_path) as writer:
        for n, (image_id, suffix) in enumerate(NAMES):
            if image_id != "1.JPG":  # it has the same key as 1.jpg
                writer.add(image_id, str(n).encode(), suffix)
    found = {unquote(key): content for key, content in read_by_webdataset(tmp_path).items()}
    expected = {
        image_id.removesuffix(suffix) or image_id: str(n).encode()
        for n, (image_id, suffix) in enumerate(NAMES)
        if image_id != "1.JPG"
    }
    assert found == expected
    assert list(pictures_of(tmp_path).values()) == list(expected.values())


@pytest.mark.parametrize(
    ("picture", "name"), NAMES.items(), ids=[name[:9] for name in NAMES.values()]
)
def test_a_members_name_has_one_dot_and_is_ascii(picture: tuple[str, str], name: str) -> None:
    assert shards.member_name(*picture) == name
    assert name.isascii()
    assert name.count(".") == 1


@pytest.mark.usefixtures("small")
def test_a_picture_is_read_alone_and_all_come_in_the_order_they_were_added(tmp_path: Path) -> None:
    found = put_pictures(tmp_path, CONTENTS)
    assert len(found) == 8
    assert {m.image_id: m.read() for m in found} == CONTENTS
    assert [m.image_id for m in found] == list(CONTENTS)
    assert [[m.image_id[-1] for m in each] for each in found.by_shard()] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6", "7"],
    ]
    assert found.read("scene-05") == CONTENTS["scene-05"]
    assert list(found.find(["scene-07", "none", "scene-00"])) == ["scene-07", "scene-00"]
    assert found.find([]) == {}


def test_the_index_names_the_bytes_that_tar_itself_names(tmp_path: Path) -> None:
    put_pictures(tmp_path, {**CONTENTS, "x" * 300: b"long"})
    with tarfile.open(tmp_path / "shards/000000.tar") as tar:
        members = [(m.name, m.offset_data, m.size, m.mtime, m.mode, m.uid, m.uname) for m in tar]
    index = pd.read_parquet(tmp_path / "images.parquet")
    assert [member[:3] for member in members] == [
        tuple(row) for row in index[["file", "offset", "size"]].to_numpy().tolist()
    ]
    assert {member[3:] for member in members} == {(0, 0o644, 0, "")}


def test_a_shard_ends_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BYTES", 10_000)
    assert [len(each) for each in put_pictures(tmp_path, CONTENTS).by_shard()] == [5, 3]


def test_a_data_set_without_pictures_has_an_index_without_rows(tmp_path: Path) -> None:
    found = put_pictures(tmp_path, {})
    assert (len(found), list(found), list((tmp_path / "shards").iterdir())) == (0, [], [])


@pytest.mark.parametrize("second", ["a.jpg", "a"])
def test_two_pictures_of_one_key_are_refused(tmp_path: Path, second: str) -> None:
    with shards.ShardWriter(tmp_path) as writer:
        writer.add("a.jpg", b"1")
        said = r"^the pictures 'a.jpg' and '.*' would both be 'a.jpg' in the shards: rename one"
        with pytest.raises(UserError, match=said):
            writer.add(second, b"2", ".jpg")


def test_what_is_no_picture_of_the_data_set_is_one_line(tmp_path: Path) -> None:
    found = put_pictures(tmp_path, CONTENTS)
    with pytest.raises(UserError, match=r"images.parquet names no picture of image 'none': dvc"):
        found.read("none")


def changed_index(**changes: Any) -> Any:
    """Return a function that makes these changes in the row of scene-05."""

    def change(folder: Path) -> None:
        index = pd.read_parquet(folder / "images.parquet")
        for column, value in changes.items():
            index[column] = index[column].astype(object)
            index.loc[5, column] = value
        index.to_parquet(folder / "images.parquet")

    return change


def changed_shard(change: Any) -> Any:
    def apply(folder: Path) -> None:
        change(folder / "shards/000000.tar")

    return apply


def other_order(path: Path) -> None:
    """Write the same files again, with the first one last."""
    with tarfile.open(path) as tar:
        files = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, content in (*files[1:], files[0]):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            changed_index(offset=512),
            r"does not begin the 3,500 bytes of 'scene-05.png' as images\.p",
        ),
        (
            changed_index(offset=3000),
            r"byte 3000 does not begin .*\((bad checksum|invalid header)\)",
        ),
        (changed_index(offset=10**9), r"\((empty|truncated) header\)"),
        (changed_index(size=3499), r"\(the file there has 3,500 bytes\)"),
        (changed_index(file="x.png"), r"\('scene-05.png' is there\)"),
        (changed_shard(other_order), r"000000\.tar: byte \d+ does not begin the 3,500 bytes"),
        (changed_shard(lambda p: os.truncate(p, 12_000)), r"\(the shard ends before that\)"),
        (changed_shard(lambda p: os.truncate(p, 0)), r"000000\.tar: byte \d+ does .*empty header"),
        (changed_shard(Path.unlink), r"000000\.tar cannot be read \(no such file\): picture 'sc"),
        (changed_shard(pipe), r"000000\.tar cannot be read \(no such file\)"),
    ],
)
def test_a_shard_that_is_not_what_its_index_says_is_one_line(
    tmp_path: Path, damage: Any, message: str
) -> None:
    put_pictures(tmp_path, CONTENTS)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        Shards(tmp_path).read("scene-05")
    assert str(error.value).endswith("dvc checkout brings back what dvc repro made")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": "../../elsewhere.tar"},
        {"shard": "/etc/passwd"},
        {"shard": None},
        {"file": "../../x.png"},
        {"file": ""},
        {"image_id": None},
        {"offset": 0},
        {"offset": None},
        {"size": -1},
    ],
)
def test_an_index_that_names_no_place_in_the_shards_is_one_line(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    put_pictures(tmp_path, CONTENTS)
    changed_index(**changes)(tmp_path)
    with pytest.raises(
        UserError, match=r"images\.parquet gives no place in a shard for image '(scene-05|None)'"
    ):
        list(Shards(tmp_path))


def test_an_index_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images\.parquet is not there: run dvc repro$"):
        Shards(tmp_path)
    (tmp_path / "images.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"images\.parquet is not a readable Parquet file: "):
        Shards(tmp_path)
    pd.DataFrame({"image_id": ["a"]}).to_parquet(tmp_path / "images.parquet")
    with pytest.raises(UserError, match=r"images\.parquet has no column file, shard, offset"):
        Shards(tmp_path)


def test_a_picture_is_written_out_as_it_was_published(tmp_path: Path) -> None:
    found = put_pictures(tmp_path / "raw", {"cats/1": b"a cat"}).find(["cats/1"])
    file = write_picture(found["cats/1"], tmp_path / "out")
    assert (file, file.read_bytes()) == (tmp_path / "out/cats/1.png", b"a cat")


def test_what_writes_shards_and_what_reads_them_agree_on_their_names() -> None:
    """The writer imports nothing from the reader.

    Otherwise every edit of the reader would fetch all data sets again.
    """
    from pipeline.data import shards as reader

    assert reader.INDEX == shards.INDEX
    assert shards.SCHEMA.names == reader.COLUMNS
    assert reader.HEADER == tarfile.BLOCKSIZE
    assert gate.LARGEST < shards.BYTES
