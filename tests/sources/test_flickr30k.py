"""Flickr30k from three parts of one zip archive, or from the authors' captions and photos."""

import hashlib
import json

import pandas as pd
import pytest

from pipeline.cleaning.clean import clean_text
from pipeline.core.errors import UserError
from pipeline.experiment.params import load_params
from pipeline.sources import flickr30k
from pipeline.sources.shared import archives, base
from tests.pictures import pictures_of
from tests.releases import everything, index_of, jpeg, split_of, write_zip
from tests.workspace import ROOT

PHOTOS = ("1.jpg", "2.jpg", "3.jpg")
CAPTIONS = (
    b'image,caption\r\n1.jpg,"A man , hat on ."\r\n1.jpg,Two men .\r\n2.jpg,"He says '
    b'""go"""\r\n3.jpg,The sea\r\n4.jpg,none\r\n'
)
TOKENS = (
    b'1.jpg#0\tA man , hat on .\n1.jpg#1\tTwo men .\n2.jpg#0\tHe says "go"\n3.jpg#0\tThe '
    b"sea\n4.jpg#0\tnone\n"
)


def zipped(path, captions=CAPTIONS, photos=PHOTOS, inside="Images", name="captions.txt"):
    members = {f"{inside}/{photo}": jpeg(n) for n, photo in enumerate(photos)}
    return write_zip(path, {name: captions, "__MACOSX/Images/._1.jpg": b"x"} | members)


def parts(folder, **given):
    """Write the three parts of a tiny release, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = zipped(folder / "whole.zip", **given).read_bytes()
    (folder / "whole.zip").unlink()
    for n, name in enumerate(flickr30k.RELEASE.parts):
        (folder / name).write_bytes(data[n * len(data) // 3 : (n + 1) * len(data) // 3])
    return str(folder)


@pytest.fixture(autouse=True)
def _one_photo_held_out(monkeypatch):
    monkeypatch.setattr(flickr30k, "HELD_OUT", 1)


def test_parts_become_the_index_of_the_row_trail(tmp_path):
    flickr30k.fetch(tmp_path / "raw", archives=parts(tmp_path / "zips"))
    index = index_of(tmp_path / "raw")
    assert index.to_dict("split")["data"] == [
        ["1.jpg", "1.jpg#0", "A man , hat on .", False, "train"],
        ["1.jpg", "1.jpg#1", "Two men .", False, "train"],
        ["2.jpg", "2.jpg#0", 'He says "go"', False, "val"],
        ["3.jpg", "3.jpg#0", "The sea", False, "test"],
        ["4.jpg", "4.jpg#0", "none", False, None],
    ]
    assert list(index) == ["image_id", "caption_id", "raw", "undecodable", "split_last"]
    assert list(pictures_of(tmp_path / "raw")) == list(PHOTOS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "zips"]


def test_the_whole_zip_and_the_authors_own_files_give_the_same_rows(tmp_path):
    flickr30k.fetch(tmp_path / "a", archives=parts(tmp_path / "parts"))
    (tmp_path / "whole").mkdir()
    zipped(tmp_path / "whole/flickr30k.zip")
    flickr30k.fetch(tmp_path / "b", archives=str(tmp_path / "whole"))
    (tmp_path / "own/flickr30k-images").mkdir(parents=True)
    (tmp_path / "own/results_20130124.token").write_bytes(TOKENS)
    for n, photo in enumerate(PHOTOS):
        (tmp_path / "own/flickr30k-images" / photo).write_bytes(jpeg(n))
    flickr30k.fetch(tmp_path / "c", archives=str(tmp_path / "own"))
    a, b, c = (everything(tmp_path / name) for name in "abc")
    assert a == b
    md5 = hashlib.md5(TOKENS).hexdigest()
    assert json.loads(c.pop("manifest.json")) == {
        "source": "flickr30k",
        "archives": {"results_20130124.token": md5},
    }
    del a["manifest.json"]
    assert a == c


@pytest.mark.parametrize(
    ("name", "captions"),
    [
        (
            "flickr30k/captions.txt",
            b"image_name,comment_number,comment\n1.jpg, 0, A man , hat on .\n2.jpg,0,One\n",
        ),
        (
            "results.csv",
            b"image_name| comment_number| comment\n1.jpg| 0| A man , hat on .\n2.jpg| 0| One\n",
        ),
        ("x/results_20130124.token", b"1.jpg#0\tA man , hat on .\n2.jpg#0\tOne\n"),
    ],
)
def test_the_header_tells_the_columns_and_the_archive_its_folders(tmp_path, name, captions):
    folder = parts(
        tmp_path / "zips", name=name, captions=captions, inside="flickr30k_images/flickr30k_images"
    )
    flickr30k.fetch(tmp_path / "raw", archives=folder)
    index = index_of(tmp_path / "raw")
    assert list(index["raw"]) == ["A man , hat on .", "One"]
    assert list(index["caption_id"]) == ["1.jpg#0", "2.jpg#0"]


def test_what_is_no_csv_keeps_every_character_of_its_caption(tmp_path):
    """Quotes that break the rules of CSV are kept too; a well-formed line is read as CSV."""
    lines = [
        "1.jpg,Two hens , one brown,peck",
        '1.jpg,He says "go, now" loudly',
        '1.jpg,"Go, now" he says',
        '1.jpg,"A man waits',
        '1.jpg,"A man, waiting"',
    ]
    captions = "\n".join(["image,caption", *lines]).encode()
    flickr30k.fetch(tmp_path / "raw", archives=parts(tmp_path / "zips", captions=captions))
    raw = list(index_of(tmp_path / "raw")["raw"])
    assert raw == [*(line.removeprefix("1.jpg,") for line in lines[:-1]), "A man, waiting"]
    assert clean_text(raw[0], load_params(ROOT / "params.yaml").corpora["scenes"]) == (
        "two hens one brownpeck"  # "brown,peck" was published like this
    )


def test_a_caption_that_lacks_the_bar_before_it_is_found(tmp_path):
    captions = b"image_name| comment_number| comment\n1.jpg| 0| One\n1.jpg| 4   A dog runs\n"
    flickr30k.fetch(
        tmp_path / "raw", archives=parts(tmp_path / "zips", name="results.csv", captions=captions)
    )
    assert index_of(tmp_path / "raw")[["caption_id", "raw"]].to_numpy().tolist() == [
        ["1.jpg#0", "One"],
        ["1.jpg#1", "A dog runs"],
    ]


def test_a_line_without_a_caption_is_named(tmp_path):
    captions = b"image_name| comment_number| comment\n1.jpg| 0| One\n1.jpg| 4\n"
    folder = parts(tmp_path / "zips", name="results.csv", captions=captions)
    with pytest.raises(UserError, match=r"line 3: expected 'image_name\|.*', not '1.jpg\| 4'"):
        flickr30k.fetch(tmp_path / "raw", archives=folder)


def test_bytes_that_are_no_utf8_are_kept_and_marked(tmp_path):
    captions = b"\xef\xbb\xbfimage,caption\n1.jpg,caf\xe9\n1.jpg,caf\xc3\xa9\n"
    flickr30k.fetch(tmp_path / "raw", archives=parts(tmp_path / "zips", captions=captions))
    assert index_of(tmp_path / "raw")[["raw", "undecodable"]].to_numpy().tolist() == [
        ["caf\\xe9", True],
        ["café", False],
    ]


def test_karpathys_split_is_one_more_scheme(tmp_path):
    folder = parts(tmp_path / "zips")
    images = [
        {"filename": name, "split": split}
        for name, split in (("1.jpg", "val"), ("2.jpg", "test"), ("9.jpg", "train"))
    ]
    write_zip(
        tmp_path / "zips/caption_datasets.zip",
        {"dataset_flickr30k.json": json.dumps({"images": images})},
    )
    flickr30k.fetch(tmp_path / "raw", archives=folder, karpathy="download")
    assert split_of(tmp_path / "raw", "karpathy") == {"1.jpg": "val", "2.jpg": "test"}
    assert split_of(tmp_path / "raw", "last") == {"1.jpg": "train", "2.jpg": "val", "3.jpg": "test"}


def served(server, tmp_path, monkeypatch, **given):
    parts(tmp_path / "served", **given)
    for path in (tmp_path / "served").iterdir():
        server.files[f"/{path.name}"] = path.read_bytes()
    monkeypatch.setattr(
        flickr30k,
        "RELEASE",
        base.Archive("flickr30k.zip", "", (server.url,), flickr30k.RELEASE.parts),
    )


def test_parts_are_downloaded_resumed_and_put_together(server, tmp_path, monkeypatch):
    served(server, tmp_path, monkeypatch)
    waiting = tmp_path / "raw/.f.download"
    waiting.mkdir(parents=True)
    (waiting / "flickr30k_part01").write_bytes(server.files["/flickr30k_part01"][:100])
    flickr30k.fetch(tmp_path / "raw/f")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["f"]
    assert [range_ for _, range_ in server.requests] == [None, "bytes=100-", None]
    assert pictures_of(tmp_path / "raw/f")["2.jpg"] == jpeg(1)


def test_an_archive_that_was_put_together_is_not_downloaded_again(server, tmp_path, monkeypatch):
    served(server, tmp_path, monkeypatch)
    (tmp_path / "raw/.f.download").mkdir(parents=True)
    zipped(tmp_path / "raw/.f.download/flickr30k.zip")
    flickr30k.fetch(tmp_path / "raw/f")
    assert server.requests == []


def test_a_part_that_is_an_error_page_is_thrown_away(server, tmp_path, monkeypatch):
    served(server, tmp_path, monkeypatch)
    server.files["/flickr30k_part02"] = b"<html>"
    with pytest.raises(
        UserError,
        match=r"flickr30k_part02\): not a whole zip archive; or name a folder that holds it in "
        r"CAPTIONLAB_F",
    ):
        flickr30k.fetch(tmp_path / "raw/f")
    assert list((tmp_path / "raw/.f.download").iterdir()) == []


def test_a_part_that_is_gone_names_its_address_and_the_next_mirror_is_tried(server, tmp_path):
    data = zipped(tmp_path / "whole.zip").read_bytes()
    server.files |= {"/a/p0": data[:50], "/b/p0": data[:50], "/b/p1": data[50:]}
    one = archives.Archive(
        "whole.zip", hashlib.md5(data).hexdigest(), (server.url + "a/",), ("p0", "p1")
    )
    with pytest.raises(
        UserError, match=rf"^cannot download whole.zip: {server.url}a/p1: HTTP status 404$"
    ):
        archives.download([one], tmp_path / "x")
    both = archives.Archive(
        "whole.zip", one.md5, (server.url + "a/", server.url + "b/"), ("p0", "p1")
    )
    assert archives.download([both], tmp_path / "y")["whole.zip"].read_bytes() == data
    assert [path.name for path in (tmp_path / "y").iterdir()] == ["whole.zip"]


def test_a_missing_part_names_all_that_is_wanted(tmp_path):
    folder = parts(tmp_path / "zips")
    (tmp_path / "zips/flickr30k_part01").unlink()
    label = "flickr30k.zip (or flickr30k_part00, flickr30k_part01, flickr30k_part02)"
    with pytest.raises(UserError) as error:
        flickr30k.fetch(tmp_path / "raw", archives=folder)
    assert (
        str(error.value) == f"{folder} (archives: in params.yaml) lacks {label}: put {label} there"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"name": "readme.txt"},
            "holds no captions.txt or results_20130124.token or results.csv: it is not the archive",
        ),
        ({"photos": ()}, "holds no .jpg files: it is not the archive"),
        (
            {"captions": b"picture,text\n1.jpg,One\n"},
            "captions.txt, line 1: expected a header such as 'image,caption', not 'picture,",
        ),
        (
            {"captions": b"image,caption\n1.jpg,One\nTwo\n"},
            "captions.txt, line 3: expected 'image,caption', not 'Two'",
        ),
        (
            {"captions": b"1.jpg#0\tOne\n1.jpg\tTwo\n"},
            "captions.txt, line 2: expected 'name.jpg#n<TAB>caption', not",
        ),
        ({"inside": ".."}, "would leave its folder; do not trust this archive"),
    ],
)
def test_a_release_that_is_none_is_one_line_and_leaves_nothing(tmp_path, given, message):
    with pytest.raises(UserError, match=message) as error:
        flickr30k.fetch(tmp_path / "raw", archives=parts(tmp_path / "zips", **given))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["zips"]


def test_the_authors_caption_file_without_photos_is_named(tmp_path):
    (tmp_path / "results_20130124.token").write_bytes(TOKENS)
    with pytest.raises(
        UserError, match=r"no photos in flickr30k-images/: unpack flickr30k-images.tar there"
    ):
        flickr30k.fetch(tmp_path / "raw", archives=str(tmp_path))
    assert not (tmp_path / "raw").exists()


def test_a_photo_is_in_one_split_only(tmp_path):
    flickr30k.fetch(tmp_path / "raw", archives=parts(tmp_path / "zips", captions=TOKENS))
    table = pd.read_parquet(tmp_path / "raw/captions.parquet")
    assert table.groupby("image_id")["split_last"].nunique().max() == 1
