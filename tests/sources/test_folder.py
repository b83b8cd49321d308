"""A user's own images: every format of captions gives the same rows, and faults are named."""

import json
import os

import pandas as pd
import pytest

from pipeline.cleaning.clean import clean_file
from pipeline.cleaning.image_check import look_at_images
from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.data.corpus import read_captions
from pipeline.data.shards import Shards
from pipeline.experiment.params import load_params
from pipeline.images.reading import MAX_BYTES
from pipeline.sources import folder
from pipeline.sources.shared import gate
from tests.pictures import pictures_of
from tests.releases import everything, index_of, jpeg, split_of
from tests.workspace import ROOT

ROWS = [
    ("cats/1.jpg", "A cat"),
    ("cats/1.jpg", "One cat, black"),
    ("dogs/1.jpg", 'A "dog"'),
    ("x.png", "Nothing"),
]
CSV = (
    'image,caption\ncats/1.jpg,A cat\n./cats/1.jpg,"One cat, black"\ndogs/1.jpg,"A '
    '""dog"""\nx.png,Nothing\n'
)
SPLIT_CSV = (
    "image,caption,split\ncats/1.jpg,A cat,train\ncats/1.jpg,One,train\ndogs/1.jpg,A "
    "dog,validation\nx.png,No,test\n"
)


def photos(root, names=("cats/1.jpg", "dogs/1.jpg", "x.png")):
    for n, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(6 * n))
    return root


def coco(rows=ROWS, splits=None):
    names = list(dict.fromkeys(name for name, _ in rows))
    images = [
        {"id": n, "file_name": name} | ({"split": splits[name]} if splits else {})
        for n, name in enumerate(names)
    ]
    return {
        "images": images,
        "annotations": [{"image_id": names.index(name), "caption": text} for name, text in rows],
    }


def write_captions(root, suffix):
    """Write ROWS in the format of the suffix, and return the value of `captions`."""
    file = root / f"my captions{suffix}"
    if suffix == ".txt":
        for name in dict.fromkeys(name for name, _ in ROWS):
            texts = [text for image, text in ROWS if image == name]
            (root / name).with_suffix(".txt").write_text("\n".join(texts) + "\n\n")
        return None
    if suffix == ".csv":
        file.write_text(CSV)
    elif suffix == ".tsv":
        pd.DataFrame(ROWS, columns=["image", "caption"]).to_csv(file, sep="\t", index=False)
    elif suffix == ".jsonl":
        file.write_text(
            "".join(json.dumps({"image": name, "caption": text}) + "\n" for name, text in ROWS)
        )
    elif suffix == ".parquet":
        pd.DataFrame(ROWS, columns=["image", "caption"]).to_parquet(file)
    else:
        file.write_text(json.dumps(coco()))
    return file.name


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".json", ".txt"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    root = photos(tmp_path / "mine")
    captions = write_captions(root, suffix)
    folder.fetch(tmp_path / "raw", path=str(root), captions=captions)
    index = index_of(tmp_path / "raw")
    assert index[["image_id", "caption_id", "raw", "undecodable"]].to_numpy().tolist() == [
        ["cats/1", "cats/1#0", "A cat", False],
        ["cats/1", "cats/1#1", "One cat, black", False],
        ["dogs/1", "dogs/1#0", 'A "dog"', False],
        ["x", "x#0", "Nothing", False],
    ]
    assert list(index)[4:] == ["split_random"]
    assert pictures_of(tmp_path / "raw") == {
        name: (root / file).read_bytes()
        for name, file in (("cats/1", "cats/1.jpg"), ("dogs/1", "dogs/1.jpg"), ("x", "x.png"))
    }


def test_columns_may_have_other_names_and_lists_hold_several_captions(tmp_path):
    root = photos(tmp_path / "mine")
    rows = [
        {"file": "x.png", "texts": ["One", "Two"], "part": "test"},
        {"file": "dogs/1.jpg", "texts": ["Dog"], "part": "train"},
    ]
    names = {"image_column": "file", "caption_column": "texts", "split_column": "part"}
    pd.DataFrame(rows).to_parquet(root / "c.parquet")
    (root / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for table in ("c.parquet", "c.jsonl"):
        folder.fetch(tmp_path / "raw", path=str(root), captions=table, **names)
        assert list(index_of(tmp_path / "raw")["raw"]) == ["One", "Two", "Dog", ""]
        assert split_of(tmp_path / "raw", "official") == {"x": "test", "dogs/1": "train"}


def test_the_column_split_is_the_official_scheme(tmp_path):
    root = photos(tmp_path / "mine")
    (root / "c.csv").write_text(SPLIT_CSV)
    splits = {"cats/1.jpg": "restval", "dogs/1.jpg": "dev", "x.png": "test"}
    (root / "c.json").write_text(json.dumps(coco(splits=splits)))
    for table in ("c.csv", "c.json"):
        folder.fetch(tmp_path / "raw", path=str(root), captions=table)
        assert split_of(tmp_path / "raw", "official") == {
            "cats/1": "train",
            "dogs/1": "val",
            "x": "test",
        }


def test_the_random_split_follows_shares_and_seed_alone(tmp_path):
    names = [f"{n:02d}.jpg" for n in range(40)]
    root = photos(tmp_path / "mine", names)
    for order, table in ((names, "a.csv"), (names[::-1], "b.csv")):
        (root / table).write_text(
            "image,caption\n" + "".join(f"{name},A photo {name}\n" for name in order)
        )
    splits = []
    for table, seed in (("a.csv", 1), ("b.csv", 1), ("a.csv", 2)):
        folder.fetch(tmp_path / "raw", path=str(root), captions=table, val=0.2, test=0.1, seed=seed)
        splits.append(split_of(tmp_path / "raw", "random"))
    assert pd.Series(splits[0]).value_counts().to_dict() == {"train": 28, "val": 8, "test": 4}
    assert splits[0] == splits[1] != splits[2]


def test_what_lacks_its_other_half_is_told_and_set_aside_with_its_reason(tmp_path, capsys):
    root = photos(tmp_path / "mine", ["a.jpg", "b.jpg", "sub/bare.png", ".hidden/c.jpg", "._a.jpg"])
    (root / "c.csv").write_text(
        "image,caption\na.jpg,A fine thing\ngone.jpg,Who knows\nb.jpg,\nb.jpg,caf\xe9 noir\n",
        "latin-1",
    )
    folder.fetch(tmp_path / "raw", path=str(root), captions="c.csv", val=0.0, test=0.0)
    assert capsys.readouterr().err.splitlines() == [
        "folder: 1 of 3 images without captions, to be set aside as 'empty': sub/bare.png",
        "folder: 1 of 3 images with captions that are not there, to be set aside as 'image "
        "missing': gone.jpg",
    ]
    pictures = look_at_images(Shards(tmp_path / "raw"))
    options = (
        load_params(ROOT / "params.yaml")
        .corpora["scenes"]
        .model_copy(update={"split": "random", "max_rejected": 1.0})
    )
    (tmp_path / "corpus").mkdir()
    rejected = clean_file(tmp_path / "raw", pictures, options, tmp_path / "corpus")
    assert list(read_captions(tmp_path / "corpus/captions.parquet")["caption_id"]) == ["a#0"]
    assert dict(zip(rejected["caption_id"], rejected["reason"], strict=True)) == {
        "gone#0": "image missing",
        "b#0": "empty",
        "b#1": "undecodable",
        "sub/bare#0": "empty",
    }
    images = json.loads((tmp_path / "raw/manifest.json").read_text())["images"]
    assert {key: images[key] for key in ("there", "missing", "without_captions")} == {
        "there": 3,
        "missing": 1,
        "without_captions": 1,
    }


def test_captions_of_coco_images_that_it_does_not_list_stay_rows(tmp_path):
    root = photos(tmp_path / "mine")
    content = coco()
    content["annotations"].append({"image_id": 77, "caption": "Of what?"})
    (root / "c.json").write_text(json.dumps(content))
    folder.fetch(tmp_path / "raw", path=str(root), captions="c.json")
    last = index_of(tmp_path / "raw").iloc[-1]
    assert last[["image_id", "raw"]].to_list() == ["77", "Of what?"]
    assert "77" not in pictures_of(tmp_path / "raw")


def test_an_id_of_coco_is_one_image_as_number_and_as_text(tmp_path):
    root = photos(tmp_path / "mine")
    content = coco()
    content["annotations"] = [
        {**one, "image_id": str(one["image_id"])} for one in content["annotations"]
    ]
    (root / "c.json").write_text(json.dumps(content))
    folder.fetch(tmp_path / "raw", path=str(root), captions="c.json")
    index = index_of(tmp_path / "raw")
    assert list(zip(index["image_id"], index["raw"], strict=True)) == [
        (name.rpartition(".")[0], text) for name, text in ROWS
    ]


def test_the_manifest_changes_with_the_images_and_the_captions_and_with_nothing_else(tmp_path):
    root = photos(tmp_path / "mine")
    (root / "c.csv").write_text(CSV)

    def manifest(**args):
        folder.fetch(tmp_path / "raw", path=str(root), captions="c.csv", **args)
        return everything(tmp_path / "raw")["manifest.json"]

    first = manifest()
    (root / "notes.md").write_text("not read")
    assert manifest() == first
    assert str(tmp_path).encode() not in first
    (root / "x.png").write_bytes(jpeg(200))
    second = manifest()
    (root / "c.csv").write_text(CSV + "x.png,Another\n")
    assert len({first, second, manifest()}) == 3


def test_captions_may_lie_elsewhere_and_an_empty_argument_reads_text_files(tmp_path):
    root = photos(tmp_path / "mine")
    (tmp_path / "c.csv").write_text("\ufeff" + CSV)
    folder.fetch(tmp_path / "raw", path=str(root), captions=str(tmp_path / "c.csv"))
    assert len(index_of(tmp_path / "raw")) == 4
    (root / "x.txt").write_bytes(b"\xef\xbb\xbfOne\r\n\r\nTwo caf\xe9")
    (root / "gone.txt").write_text("Three")
    folder.fetch(tmp_path / "raw", path=str(root))
    rows = index_of(tmp_path / "raw")[["caption_id", "raw", "undecodable"]].to_numpy().tolist()
    assert rows[:3] == [
        ["gone#0", "Three", False],
        ["x#0", "One", False],
        ["x#1", "Two caf\\xe9", True],
    ]
    assert [row[:2] for row in rows[3:]] == [["cats/1#0", ""], ["dogs/1#0", ""]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c.csv",
            "picture,caption\nx.png,One\n",
            "c.csv lacks 'image', it has picture, caption: set image_column",
        ),
        (
            "c.csv",
            "image,text\nx.png,One\n",
            "c.csv lacks 'caption', it has image, text: set caption_column",
        ),
        ("c.csv", "", "c.csv holds no captions: name a file that has some in captions:"),
        ("c.parquet", "", "c.parquet holds no captions: name a file that has some in captions:"),
        ("c.csv", "image,caption\n", "c.csv holds no captions: name a file that has some in"),
        (
            "c.csv",
            "image;caption\nx.png;One, two\n",
            "c.csv is separated by ';', but a comma is expected: save it with commas",
        ),
        (
            "c.tsv",
            "image,caption\nx.png,One\n",
            "c.tsv is separated by a comma, but a tab is expected: save it with tabs",
        ),
        (
            "c.csv",
            "image,caption\nx.png,One, two\n",
            "c.csv, line 2: 3 fields where the header has 2: put a caption",
        ),
        ("c.csv", "image,caption\nx.png\n", "c.csv, line 2: 1 fields where the header has 2"),
        (
            "c.csv",
            'image,caption\nx.png,"One\n',
            "c.csv, line 2: unexpected end of data: correct the quotes there",
        ),
        ("c.csv", "image,caption\n,One\n", "c.csv, line 2: no image is named"),
        (
            "c.csv",
            "image,caption\n../x.jpg,One\n",
            r"c.csv, line 2: image '../x.jpg' must be named within the folder",
        ),
        (
            "c.csv",
            "image,caption\ncats/../x.png,One\n",
            "must be named within the folder, with / and without ..",
        ),
        (
            "c.csv",
            "image,caption\n/etc/passwd,One\n",
            r"image '/etc/passwd' must be named within the folder",
        ),
        ("c.csv", "image,caption\ncats\\1.jpg,One\n", "must be named within the folder, with /"),
        (
            "c.csv",
            "image,caption\nC:/1.jpg,One\n",
            "image 'C:/1.jpg' must be named within the folder",
        ),
        ("c.csv", "image,caption\n.,One\n", "image '.' must be named within the folder"),
        (
            "c.csv",
            "image,caption\nx\x00.png,One\n",
            "has bytes that are not text in its name: rename it",
        ),
        ("c.csv", "image,caption\nX.PNG.jpg,One\n", "none of the images that .*c.csv name is in"),
        (
            "c.csv",
            "image,caption,split\nx.png,One,train\nx.png,Two,test\n",
            "c.csv, line 3: image x is listed for train and for",
        ),
        (
            "c.csv",
            "image,caption,split\nx.png,One,traning\n",
            "c.csv, line 2: 'split' holds 'traning': give one of dev, restval",
        ),
        (
            "c.csv",
            "image,caption\nx.png,One\nx.jpg,Two\n",
            "x.png and x.jpg would both be image x: rename one of them",
        ),
        (
            "c.jsonl",
            '{"image": "x.png", "caption": "One"}\n{"image": "x.png"}\n',
            "c.jsonl, line 2 lacks 'caption', it has image",
        ),
        (
            "c.jsonl",
            '{"image": "x.png", "caption": 3}\n',
            "c.jsonl, line 1: 'caption' holds 3: give text, or a list of texts",
        ),
        ("c.jsonl", '{"image": 3, "caption": "One"}\n', "c.jsonl, line 1: no image is named"),
        (
            "c.csv",
            "image,caption,caption\nx.png,One,Two\n",
            "c.csv has the column 'caption' twice: take one of them out",
        ),
        (
            "c.jsonl",
            '{"image": "x.png", "caption": "One", "caption": "Two"}',
            "c.jsonl, line 1: 'caption' occurs twice",
        ),
        ("c.csv", "i\0m\0a\0g\0e\0,\0c\0a\0p\0t\0", "c.csv is UTF-16: save it as UTF-8"),
        (
            "c.json",
            '{"images": [{"id": 1, "file_name": "x.png"}, {"id": 1, "file_name": "cats/1.jpg"}], '
            '"annotations": []}',
            "image 1 occurs twice, with the file_name 'x.png' and 'cats/1.jpg': give each",
        ),
        (
            "c.csv",
            "image,caption\nX.png,One\n",
            r"none of the images .* \('X.png' and 'x.png' differ in case only\)",
        ),
        ("c.jsonl", "[1]\n", "c.jsonl, line 1: expected an object with image and caption"),
        (
            "c.jsonl",
            '{"image": "x.png", "caption": "One", "split": ["a"]}',
            r"line 1: 'split' holds \['a'\]: give one of",
        ),
        ("c.jsonl", "{\n", "c.jsonl, line 1 is not JSON"),
        ("c.jsonl", "[" * 100_000, "c.jsonl, line 1 is not JSON"),
        ("c.json", "[]", "c.json is no COCO captions file: expected images"),
        ("c.parquet", "PAR1", "c.parquet is not a readable Parquet file"),
        (
            "c.xlsx",
            "",
            r"c.xlsx \(captions: in params.yaml\) is of an unknown format: give .csv, "
            r".tsv, .jsonl, .parquet or",
        ),
        (None, "", r"c.csv \(captions: in params.yaml\) is not there: name a file .csv"),
    ],
)
def test_captions_that_cannot_be_read_are_one_line_and_leave_nothing(tmp_path, name, text, message):
    root = photos(tmp_path / "mine")
    if name:
        (root / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        folder.fetch(tmp_path / "raw", path=str(root), captions=name or "c.csv")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "other", "hint"),
    [
        ("cafe\u0301", "caf\u00e9", "the Unicode form of a letter (NFC, NFD)"),
        ("caf\u00e9", "cafe\u0301", "the Unicode form of a letter (NFC, NFD)"),
        ("CAFE\u0301", "caf\u00e9", "case and the Unicode form of a letter"),
    ],
)
def test_names_in_another_unicode_form_are_said_to_differ_in_it(tmp_path, name, other, hint):
    """Macs write file names in NFD; a table that is written elsewhere has NFC."""
    root = photos(tmp_path / "mine", [f"{name}.jpg"])
    (root / "c.csv").write_text(f"image,caption\n{other}.jpg,One\n", encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        folder.fetch(tmp_path / "raw", path=str(root), captions="c.csv")
    assert str(refusal.value).endswith(
        f"name them relative to it ('{other}.jpg' and '{name}.jpg' differ in {hint} only)"
    )
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_table_that_is_too_large_to_be_read_at_once_is_one_line(tmp_path, suffix):
    root = photos(tmp_path / "mine")
    with (root / f"c{suffix}").open("wb") as file:
        file.truncate(40 * 10**9)  # a sparse file, which takes no room
    with pytest.raises(UserError) as refusal:
        folder.fetch(tmp_path / "raw", path=str(root), captions=f"c{suffix}")
    assert str(refusal.value) == (
        f"{root}/c{suffix} has 40,000,000,000 bytes, more than the 2,000,000,000 that are read at "
        "once: save its captions as Parquet"
    )
    assert not (tmp_path / "raw").exists()


def test_a_parquet_table_that_lacks_a_column_is_named(tmp_path):
    root = photos(tmp_path / "mine")
    pd.DataFrame({"image": ["x.png"], "text": ["One"]}).to_parquet(root / "c.parquet")
    with pytest.raises(
        UserError, match=r"c.parquet lacks 'caption', it has image, text: set caption_column"
    ):
        folder.fetch(tmp_path / "raw", path=str(root), captions="c.parquet")
    with pytest.raises(
        UserError, match=r"c.parquet lacks 'part', it has image, text: set split_column"
    ):
        folder.fetch(
            tmp_path / "raw",
            path=str(root),
            captions="c.parquet",
            caption_column="text",
            split_column="part",
        )


def test_a_folder_that_is_none_or_empty_is_one_line(tmp_path):
    with pytest.raises(
        UserError,
        match=r"nowhere \(path: in params.yaml\) is not a folder: name the one that holds",
    ):
        folder.fetch(tmp_path / "raw", path=str(tmp_path / "nowhere"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.txt").write_text("One")
    with pytest.raises(
        UserError, match=r"mine \(path: in params.yaml\) holds no images \(.bmp, .gif, .jpeg"
    ):
        folder.fetch(tmp_path / "raw", path=str(tmp_path / "mine"))
    photos(tmp_path / "only", ["a.jpg"])
    with pytest.raises(UserError, match=r"only holds no .txt files: name a file in captions:"):
        folder.fetch(tmp_path / "raw", path=str(tmp_path / "only"))
    (tmp_path / "mine/b.jpg").write_bytes(jpeg(1))
    with pytest.raises(UserError, match="none of the images that the text files name is in"):
        folder.fetch(tmp_path / "raw", path=str(tmp_path / "mine"))


def test_images_whose_names_no_table_can_hold_are_named(tmp_path):
    root = photos(tmp_path / "mine", ["a.jpg"])
    (root / "caf\udce9.jpg").write_bytes(jpeg(1))
    with pytest.raises(
        UserError,
        match=r"image 'caf\\\\xe9.jpg' has bytes that are not text in its name: rename it",
    ):
        folder.fetch(tmp_path / "raw", path=str(root))


@pytest.mark.parametrize("shares", [{"val": 0.6, "test": 0.4}, {"val": -0.1}])
def test_shares_that_leave_nothing_to_train_are_refused(tmp_path, shares):
    with pytest.raises(
        UserError,
        match=r"^folder: val: .*, test: .*: give shares of at least 0 that leave some images to "
        r"train$",
    ):
        folder.fetch(tmp_path / "raw", path=str(photos(tmp_path / "mine")), **shares)


def test_params_may_leave_the_captions_null():
    registry.check_args(
        folder.fetch,
        {"path": "/photos", "captions": None, "val": 0, "seed": 3},
        "datasets.mine.args",
    )
    with pytest.raises(UserError, match=r"datasets.mine.args: 'path' must be given"):
        registry.check_args(folder.fetch, {}, "datasets.mine.args")


@pytest.fixture
def linked(tmp_path):
    """A folder mine/ with two photos, links that lead out of it, and one link that does not."""
    root = photos(tmp_path / "mine", ["a.jpg", "b.jpg"])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/passwd").write_text("root:x:0:0")
    (tmp_path / "secret/c.jpg").write_bytes(jpeg(7))
    (root / "evil").symlink_to(tmp_path / "secret")
    (root / "out.jpg").symlink_to(tmp_path / "secret/c.jpg")
    (root / "within.jpg").symlink_to("b.jpg")
    names = ["a.jpg", "evil/passwd", "evil/c.jpg", "out.jpg", "within.jpg"]
    (root / "c.csv").write_text("image,caption\n" + "".join(f"{name},One\n" for name in names))
    return root


def test_what_a_link_finds_outside_the_folder_is_set_aside_with_its_reason(
    linked, tmp_path, capsys
):
    folder.fetch(tmp_path / "raw", path=str(linked), captions="c.csv", val=0.0, test=0.0)
    assert list(pictures_of(tmp_path / "raw")) == ["a", "b", "within"]
    assert not any(b"root:x" in data for data in everything(tmp_path / "raw").values())
    assert {"evil/passwd", "evil/c", "out"} <= set(index_of(tmp_path / "raw")["image_id"])
    assert capsys.readouterr().err.splitlines()[0] == (
        "folder: 3 files set aside as links that lead out of the folder (follow_links: true takes "
        "them): evil/c.jpg, evil/passwd, out.jpg"
    )
    assert json.loads((tmp_path / "raw/manifest.json").read_text())["images"]["set_aside"] == 3
    assert folder.size(path=str(linked)).images == 3


def test_a_text_file_that_a_link_finds_outside_gives_no_captions(tmp_path, capsys):
    root = photos(tmp_path / "mine", ["a.jpg", "b.jpg"])
    (root / "a.txt").write_text("A cat")
    (tmp_path / "secret").write_text("root:x:0:0")
    (root / "b.txt").symlink_to(tmp_path / "secret")
    folder.fetch(tmp_path / "raw", path=str(root), val=0.0, test=0.0)
    assert list(index_of(tmp_path / "raw")["raw"]) == ["A cat", ""]
    assert "links that lead out of the folder" in capsys.readouterr().err


def test_follow_links_takes_what_they_find(linked, tmp_path):
    folder.fetch(tmp_path / "raw", path=str(linked), captions="c.csv", follow_links=True)
    kept = pictures_of(tmp_path / "raw")
    assert kept["evil/c"] == kept["out"] == jpeg(7)
    manifest = json.loads((tmp_path / "raw/manifest.json").read_text())
    assert "set_aside" not in manifest["images"]
    assert folder.size(path=str(linked), follow_links=True).images == 4


def test_a_folder_that_is_itself_a_link_is_read(linked, tmp_path):
    (tmp_path / "here").symlink_to(linked)
    folder.fetch(tmp_path / "raw", path=str(tmp_path / "here"), captions="c.csv")
    assert "a" in pictures_of(tmp_path / "raw")


@pytest.mark.timeout(60)
def test_pipes_devices_and_endless_files_are_set_aside(tmp_path, capsys):
    root = photos(tmp_path / "mine", ["a.jpg"])
    os.mkfifo(root / "pipe.jpg")
    (root / "endless.png").symlink_to("/dev/zero")
    with (root / "sparse.png").open("wb") as file:
        file.truncate(40 * 10**9)
    names = ["a.jpg", "pipe.jpg", "endless.png", "sparse.png"]
    (root / "c.csv").write_text("image,caption\n" + "".join(f"{name},One\n" for name in names))
    folder.fetch(tmp_path / "raw", path=str(root), captions="c.csv", follow_links=True)
    assert list(index_of(tmp_path / "raw")["image_id"]) == ["a", "pipe", "endless", "sparse"]
    assert list(pictures_of(tmp_path / "raw")) == ["a"]
    assert capsys.readouterr().err.splitlines() == [
        "folder: 2 files set aside as pipes or devices: endless.png, pipe.jpg",
        "folder: 1 files set aside as larger than 256,000,000 bytes (scale them down): sparse.png",
    ]


def test_a_photo_that_is_there_twice_is_in_one_split(tmp_path):
    """There are 40 photos, each under two names.

    The shares of the splits are as requested, counted in distinct photos.
    """
    root = tmp_path / "mine"
    names = photos(root / "one", [f"{n:02d}.jpg" for n in range(40)])
    for file in sorted(names.iterdir()):
        (root / f"copy {file.name}").write_bytes(file.read_bytes())
    rows = sorted(str(file.relative_to(root)) for file in root.rglob("*.jpg"))
    (root / "c.csv").write_text("image,caption\n" + "".join(f"{name},One\n" for name in rows))
    folder.fetch(tmp_path / "raw", path=str(root), captions="c.csv", val=0.2, test=0.1)
    splits = pd.Series(split_of(tmp_path / "raw", "random"))
    assert splits.value_counts().to_dict() == {"train": 56, "val": 16, "test": 8}
    assert all(splits[f"one/{n:02d}"] == splits[f"copy {n:02d}"] for n in range(40))


def test_what_is_too_large_to_be_read_is_not_copied_either():
    assert gate.LARGEST == MAX_BYTES


def test_names_of_files_reach_the_terminal_as_text(tmp_path, capsys):
    root = photos(tmp_path / "mine", ["a.jpg"])
    os.mkfifo(root / "\x1b[2J.jpg")
    (root / "c.csv").write_text("image,caption\na.jpg,One\n")
    folder.fetch(tmp_path / "raw", path=str(root), captions="c.csv")
    assert (
        capsys.readouterr().err == "folder: 1 files set aside as pipes or devices: \\x1b[2J.jpg\n"
    )
