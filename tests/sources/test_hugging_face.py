"""Data sets of the `datasets` library, made here: every form of them is read.

What cannot be read gives an error of one line.
"""

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from pyarrow import parquet

from pipeline.core.errors import UserError
from pipeline.sources import hugging_face
from pipeline.sources.shared import hub_pictures, hub_sets
from pipeline.sources.shared.keyed import keyed_split
from tests.pictures import pictures_of
from tests.workspace import ROOT

datasets = pytest.importorskip("datasets")

Table = pd.DataFrame


def picture(n: int, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (20 * n % 256, n % 256, 0)).save(data, kind)
    return data.getvalue()


def rows(count: int, first: int = 0, **columns: list[Any]) -> Any:
    """Return a data set of pictures with one caption each, and further columns."""
    data = {"image": [{"bytes": picture(n), "path": None} for n in range(first, first + count)]}
    data |= {"caption": [f"a dog {n}" for n in range(first, first + count)], **columns}
    found = datasets.Dataset.from_dict(data)
    return found.cast_column("image", datasets.Image(decode=False))


def splits(**counts: int) -> Any:
    found, first = {}, 0
    for name, count in counts.items():
        found[name] = rows(count, first)
        first += count
    return datasets.DatasetDict(found)


def as_parquet(data: Any, root: Path) -> str:
    root.mkdir()
    for name, table in data.items():
        table.to_parquet(root / f"{name}-00000.parquet")
    return str(root)


def as_arrow(data: Any, root: Path) -> str:
    data.save_to_disk(str(root))
    return str(root)


def as_images(data: Any, root: Path) -> str:
    """Write a folder of pictures and a metadata.csv for each split."""
    for name, table in data.items():
        (root / name).mkdir(parents=True)
        lines = ["file_name,caption"]
        for number, row in enumerate(table):
            (root / name / f"{number}.png").write_bytes(row["image"]["bytes"])
            lines.append(f"{number}.png,{row['caption']}")
        (root / name / "metadata.csv").write_text("\n".join(lines))
    return str(root)


def as_tars(data: Any, root: Path) -> str:
    """Write the splits as shards of WebDataset."""
    import tarfile

    root.mkdir()
    for name, table in data.items():
        with tarfile.open(root / f"{name}-000.tar", "w") as tar:
            for number, row in enumerate(table):
                for suffix, content in (
                    ("png", row["image"]["bytes"]),
                    ("txt", row["caption"].encode()),
                ):
                    about = tarfile.TarInfo(f"{number:03}.{suffix}")
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
    return str(root)


def fetched(folder: Path, **args: Any) -> Table:
    hugging_face.fetch(folder, **args)
    return pd.read_parquet(folder / "captions.parquet")


FORMS = {"parquet": as_parquet, "arrow": as_arrow, "pictures": as_images, "tars": as_tars}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_local_data_set_gives_the_same_rows_and_pictures(
    form: str, tmp_path: Path
) -> None:
    name = FORMS[form](splits(train=5, validation=2, test=3), tmp_path / "set")
    columns = {"image_column": "png", "caption_column": "txt"} if form == "tars" else {}
    table = fetched(tmp_path / "raw", name=name, **columns)
    assert sorted(table["raw"]) == sorted(f"a dog {n}" for n in range(10))
    assert dict(table.groupby("split_official").size()) == {"train": 5, "val": 2, "test": 3}
    kept = pictures_of(tmp_path / "raw")
    kept = {raw: kept[image] for raw, image in zip(table["raw"], table["image_id"], strict=True)}
    assert kept == {f"a dog {n}": picture(n) for n in range(10)}
    manifest = json.loads((tmp_path / "raw/manifest.json").read_text())
    told = {"rows": 10, "pictures": 10, "without_picture": 0, "in_several_splits": 0}
    assert manifest == {"source": "hugging_face", "archives": {}, "images": told}
    assert hugging_face.size(name=name).images == (0 if form == "tars" else 10)


def test_rows_of_one_image_far_apart_stand_together_and_parts_equal_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = datasets.concatenate_datasets([rows(7), rows(5, 2), rows(3)])
    name = as_parquet({"train": data, "test": rows(2, 20)}, tmp_path / "set")
    whole = fetched(tmp_path / "whole", name=name)
    counts = {n: 1 + (n >= 2) + (n < 3) for n in range(7)}
    assert list(whole["raw"][:15]) == [
        f"a dog {n}" for n, count in counts.items() for _ in range(count)
    ]
    assert list(whole["split_official"].unique()) == ["train", "test"]
    monkeypatch.setattr("pipeline.sources.shared.captions.PART", 4)
    pd.testing.assert_frame_equal(fetched(tmp_path / "parts", name=name), whole)
    file = parquet.ParquetFile(tmp_path / "parts/captions.parquet")
    assert file.num_row_groups == -(-len(whole) // 4)


def test_captions_are_a_text_a_list_a_key_of_structs_or_a_row_each(tmp_path: Path) -> None:
    texts = [["a dog", "one dog"], ["a cat", None]]
    structs = [[{"raw": text or ""} for text in some] for some in texts]
    data = rows(2, texts=texts, sentences=structs)
    name = as_parquet({"train": data}, tmp_path / "set")
    for column in ("texts", "sentences.raw"):
        table = fetched(tmp_path / column, name=name, caption_column=column)
        assert list(table["raw"]) == ["a dog", "one dog", "a cat", ""]
        assert [n.rpartition("#")[2] for n in table["caption_id"]] == ["0", "1", "0", "1"]
        assert table["image_id"].nunique() == 2
    again = datasets.concatenate_datasets([rows(2), rows(2)])
    table = fetched(tmp_path / "rows", name=as_parquet({"train": again}, tmp_path / "twice"))
    assert list(table["raw"]) == ["a dog 0", "a dog 0", "a dog 1", "a dog 1"]
    assert sorted(pictures_of(tmp_path / "rows").values()) == sorted(picture(n) for n in range(2))


def test_images_are_named_by_a_column_or_by_the_bytes_of_their_files(tmp_path: Path) -> None:
    name = as_parquet({"train": rows(3, key=[7, 8, 9])}, tmp_path / "set")
    assert list(fetched(tmp_path / "a", name=name, id_column="key")["image_id"]) == ["7", "8", "9"]
    first = fetched(tmp_path / "b", name=name)["image_id"][0]
    assert first == hashlib.md5(picture(0)).hexdigest()
    same = as_parquet({"train": rows(2, key=["../../x", "../../x"])}, tmp_path / "same")
    with pytest.raises(UserError, match=r"row 1: image '\.\./\.\./x' has another picture"):
        fetched(tmp_path / "c", name=same, id_column="key")
    odd = as_parquet({"train": rows(1, key=["../../x"])}, tmp_path / "odd")
    table = fetched(tmp_path / "d", name=odd, id_column="key")
    assert list(table["image_id"]) == ["../../x"]
    assert pictures_of(tmp_path / "d") == {"../../x": picture(0)}
    assert not (tmp_path / "x.png").exists()


def test_splits_go_by_their_names_by_what_is_asked_for_or_by_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = as_arrow(splits(train=4, test=3, nocaps=2), tmp_path / "set")
    table = fetched(tmp_path / "a", name=name)
    assert dict(table.groupby("split_official").size()) == {"train": 4, "test": 3}
    assert (
        capsys.readouterr().err
        == "hugging_face: splits of the data set that are not read: nocaps\n"
    )
    asked = {"train_splits": ["train", "test"], "val_splits": ["nocaps"]}
    table = fetched(tmp_path / "b", name=name, **asked)
    assert dict(table.groupby("split_official").size()) == {"train": 7, "val": 2}
    column = ["train", "restval", "val", "test", None]
    one = as_parquet({"test": rows(5, split=column)}, tmp_path / "one")
    table = fetched(tmp_path / "c", name=one, split_column="split")
    assert list(table["split_official"])[:4] == ["train", "train", "val", "test"]
    assert table["split_official"].isna()[4]
    assert "split_official" not in fetched(tmp_path / "d", name=one)


def test_a_picture_in_two_splits_is_not_trained_on_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": rows(4), "validation": rows(2, 3), "test": rows(2, 0)}
    table = fetched(tmp_path / "raw", name=as_parquet(data, tmp_path / "set"))
    of = table.groupby("raw")["split_official"].unique()
    assert {raw: list(found) for raw, found in of.items()} == {
        "a dog 0": ["test"],
        "a dog 1": ["test"],
        "a dog 2": ["train"],
        "a dog 3": ["val"],
        "a dog 4": ["val"],
    }
    assert (
        "3 images are in several splits and count for the last of them: " in capsys.readouterr().err
    )
    manifest = json.loads((tmp_path / "raw/manifest.json").read_text())
    assert manifest["images"]["in_several_splits"] == 3


def test_a_random_split_keeps_every_image_where_it_was_when_data_is_added(tmp_path: Path) -> None:
    shares = {"val": 0.2, "test": 0.3, "seed": 5}
    few = fetched(tmp_path / "few", name=as_parquet({"train": rows(30)}, tmp_path / "a"), **shares)
    more = datasets.concatenate_datasets([rows(10, 30), rows(30)])
    many = fetched(tmp_path / "many", name=as_parquet({"train": more}, tmp_path / "b"), **shares)
    before, after = (dict(zip(t["image_id"], t["split_random"], strict=True)) for t in (few, many))
    assert before.items() <= after.items()
    drawn = keyed_split(map(str, range(10_000)), 0.2, 0.3, 5)
    counts = pd.Series(drawn.values()).value_counts()
    assert abs(counts["test"] - 3000) < 140  # three standard deviations
    assert abs(counts["val"] - 2000) < 120
    assert drawn != keyed_split(map(str, range(10_000)), 0.2, 0.3, 6)
    with pytest.raises(UserError, match=r"val 0\.5 \+ test 0\.5: give shares"):
        fetched(tmp_path / "none", name=str(tmp_path / "a"), val=0.5, test=0.5)


def test_equal_pictures_with_several_ids_are_in_one_split(tmp_path: Path) -> None:
    """There are 60 pictures, each under two ids; the last 10 are under a third."""
    ids = [f"id {n}" for n in range(120)]
    twice = datasets.concatenate_datasets([rows(60), rows(60)]).add_column("key", ids)
    args = {"id_column": "key", "val": 0.3, "test": 0.3}
    table = fetched(tmp_path / "two", name=as_parquet({"train": twice}, tmp_path / "a"), **args)
    splits = dict(zip(table["image_id"], table["split_random"], strict=True))
    assert set(splits.values()) == {"train", "val", "test"}
    assert all(splits[f"id {n}"] == splits[f"id {60 + n}"] for n in range(60))
    assert keyed_split(ids[:60], 0.3, 0.3, 1).items() <= splits.items()
    third = rows(10, 50).add_column("key", [f"a {n}" for n in range(50, 60)])
    more = as_parquet({"train": datasets.concatenate_datasets([twice, third])}, tmp_path / "b")
    table = fetched(tmp_path / "three", name=more, **args)
    after = dict(zip(table["image_id"], table["split_random"], strict=True))
    assert splits.items() <= after.items()
    assert all(after[f"a {n}"] == splits[f"id {n}"] for n in range(50, 60))


def test_pictures_that_are_missing_too_large_or_elsewhere_are_rows_without_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table could name any file of this machine as its picture."""
    (tmp_path / "secret").write_bytes(picture(9))
    root = tmp_path / "set"
    monkeypatch.setattr(hub_pictures, "LARGEST", 500)
    cells = [
        {"bytes": picture(0), "path": None},
        None,
        {"bytes": picture(1) + b"\0" * 500, "path": None},
        {"bytes": None, "path": str(tmp_path / "secret")},
        {"bytes": None, "path": "http://127.0.0.1:9/a.png"},
        {"bytes": None, "path": str(root / "../secret")},
        {"bytes": None, "path": str(root / "link.png")},
        {"bytes": None, "path": str(root / "inside.png")},
        {"bytes": None, "path": str(root / "not-there.png")},
    ]
    data = datasets.Dataset.from_dict({"image": cells, "caption": [f"c{n}" for n in range(9)]})
    data = data.cast_column("image", datasets.Image(decode=False))
    root.mkdir()
    parquet.write_table(data.data.table, root / "train-0.parquet")  # this looks at no path
    (root / "inside.png").write_bytes(picture(2))
    (root / "link.png").symlink_to(tmp_path / "secret")
    table = fetched(tmp_path / "raw", name=str(root), train_splits=["train"], image_column="image")
    assert list(pictures_of(tmp_path / "raw").values()) == [picture(0), picture(2)]
    kept = table[table["image_id"].isin(pictures_of(tmp_path / "raw"))]
    assert list(kept["raw"]) == ["c0", "c7"]
    assert len(table) == 9
    lines = capsys.readouterr().err
    assert "7 of 9 rows have no picture that can be had" in lines
    assert "links that lead out of the folder" in lines
    assert "pictures lie outside the data set and are not read: " in lines
    assert not [
        p for p in (tmp_path / "raw").rglob("*") if p.is_file() and picture(9) in p.read_bytes()
    ]


def test_the_first_rows_of_a_split_are_all_that_is_read(tmp_path: Path) -> None:
    name = as_parquet(splits(train=6, test=5), tmp_path / "set")
    table = fetched(tmp_path / "raw", name=name, rows=2)
    assert list(table["raw"]) == ["a dog 6", "a dog 7", "a dog 0", "a dog 1"] or list(
        table["raw"]
    ) == ["a dog 0", "a dog 1", "a dog 6", "a dog 7"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no caption column": (
        {"caption_column": "text"},
        r"split 'train' has no column 'text', it has image, caption, key: set caption_column",
    ),
    "no image column": ({"image_column": "jpg"}, "no column 'jpg', .*: set image_column"),
    "no id column": ({"id_column": "id"}, "no column 'id', .*: set id_column"),
    "no split column": ({"split_column": "s"}, "no column 's', .*: set split_column"),
    "no split": ({"val_splits": ["dev"]}, "has no split 'dev', it has train"),
    "twice": (
        {"val_splits": ["train"], "test_splits": ["train"]},
        "a split stands in two of train_splits, val_splits, test_splits",
    ),
    "no key": ({"caption_column": "caption.raw"}, r"row 0: there is no 'caption\.raw'"),
    "numbers": ({"caption_column": "key"}, r"row 0: 'key' holds 3: name a column of texts"),
    "no picture": ({"image_column": "caption"}, "row 0: the picture is a text: set image_column"),
    "no name of a split": ({"split_column": "caption"}, "the split is 'a dog 0': give one of"),
    "no configuration": ({"config": "de"}, "cannot be read: .*BuilderConfig 'de' not found"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_there_is_one_line_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    name = as_parquet({"train": rows(2, key=[3, 4])}, tmp_path / "set")
    args, message = WRONG[case]
    with pytest.raises(UserError, match=message) as error:
        fetched(tmp_path / "raw", name=name, **args)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "train-00000.parquet").unlink(), "cannot be read: EmptyDatasetError"),
        (lambda root: (root / "train-00000.parquet").write_bytes(b"PAR1"), "cannot be read: Arrow"),
    ],
)
def test_a_damaged_local_data_set_is_one_line(
    damage: Callable[[Path], Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = as_parquet({"train": rows(2)}, tmp_path / "set")
    damage(Path(name))
    with pytest.raises(UserError, match=message):
        fetched(tmp_path / "raw", name=name)
    assert capfd.readouterr().err == ""


def raising(error: BaseException, cause: BaseException | None = None) -> Any:
    def load(*_: Any, **__: Any) -> None:
        raise error from cause

    return load


class GatedRepoError(OSError):
    """Has the name of the error in the Hub's library, whose own class needs a response."""


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (
            datasets.exceptions.DatasetNotFoundError(
                "Dataset 'a/b' is a gated dataset on the Hub."
            ),
            GatedRepoError("403"),
            "is gated: accept its terms .* set HF_TOKEN",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("doesn't exist or cannot be accessed"),
            None,
            "is neither a folder nor on the hub: correct name: .* HF_TOKEN if it is private",
        ),
        (ConnectionError("Couldn't reach"), None, "the hub is out of reach .* a network"),
        (RuntimeError("Dataset scripts are no longer supported"), None, "no longer supported"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    error: Exception,
    cause: Exception | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets, "load_dataset_builder", raising(error, cause))
    with pytest.raises(UserError, match=f"^data set 'a/b' .*{message}") as told:
        fetched(tmp_path / "raw", name="a/b")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_library_itself_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not in the cache, and the hub is out of reach"):
        fetched(tmp_path / "raw", name="no-one/no-such-set")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_of_the_hub_has_its_commit_recorded(
    streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder of a local folder takes the place of the Hub's."""
    name = as_parquet(splits(train=3, test=2), tmp_path / "set")
    local = datasets.load_dataset_builder(name, cache_dir=str(tmp_path / "cache"))
    local.hash = "0f3ab1c"
    asked: list[Any] = []

    def builder(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return local

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    table = fetched(
        tmp_path / "raw", name="owner/name", config="en", revision="v2", streaming=streaming
    )
    assert asked == [(("owner/name", "en"), {"revision": "v2"})]
    assert len(table) == 5
    assert json.loads((tmp_path / "raw/manifest.json").read_text())["revision"] == "0f3ab1c"


def test_a_table_of_the_hub_gets_no_file_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    for name in ("secret.png", "cache/kept.png"):
        (tmp_path / name).write_bytes(picture(1))
    pictures = hub_pictures.SetPictures(None)
    cells = [{"bytes": None, "path": str(tmp_path / p)} for p in ("secret.png", "cache/kept.png")]
    assert [pictures.read(cell, "here") for cell in cells] == [None, picture(1)]
    assert pictures.read({"bytes": None, "path": "cache/../secret.png"}, "here") is None
    assert pictures.read({"bytes": None, "path": "http://127.0.0.1:9/x.png"}, "here") is None


def test_without_the_library_one_line_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from pathlib import Path\n"
        "from pipeline.core.errors import run\n"
        "from pipeline.sources import hugging_face\n"
        "run(lambda: hugging_face.fetch(Path('raw'), name='a/b'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (
        2,
        'error: the package datasets is not installed: pip install "captionlab[hf]" (in a clone: '
        "make env)\n",
    )


def test_what_is_told_in_one_line_is_an_error_of_the_library_alone() -> None:
    with pytest.raises(UserError, match="mine"), hub_sets.told("x"):
        raise UserError("mine")
    with pytest.raises(KeyboardInterrupt), hub_sets.told("x"):
        raise KeyboardInterrupt
