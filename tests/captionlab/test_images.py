"""`captionlab images`: write pictures of a data set as files, either all that are named or none."""

from pathlib import Path

import pytest

from tests.pictures import put_pictures
from tests.workspace import tiny_params, write_params


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    write_params(tmp_path, tiny_params())
    put_pictures(tmp_path / "data/raw/scenes", {"a": b"one", "cats/b": b"two", "c": b"three"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pictures_are_written_byte_for_byte_and_named(workspace, captionlab):
    assert captionlab("images", "scenes", "cats/b", "a", "--out", "shown") == (
        0,
        "shown/cats/b.png\nshown/a.png\n",
        "",
    )
    assert Path("shown/a.png").read_bytes() == b"one"
    assert Path("shown/cats/b.png").read_bytes() == b"two"
    assert captionlab("images", "scenes", "c") == (0, "c.png\n", "")
    assert captionlab("images", "scenes", "c") == (0, "c.png\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes", "a", "d"], "scenes has no picture of image 'd': the column image_id of "),
        (["photos", "a"], "'photos' is not in datasets of params.yaml: there are scenes"),
        (["scenes"], "Missing argument"),
        (["scenes", "a", "c"], "c.png exists already with other content: name a folder with --out"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_nothing_is_written(
    workspace, captionlab, arguments, message
):
    Path("c.png").write_bytes(b"mine")
    status, out, err = captionlab("images", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not Path("a.png").exists()
    assert Path("c.png").read_bytes() == b"mine"


def test_a_data_set_that_is_not_there_yet_is_one_line(tmp_path, monkeypatch, captionlab):
    write_params(tmp_path, tiny_params())
    monkeypatch.chdir(tmp_path)
    status, _, err = captionlab("images", "scenes", "a")
    assert (status, err) == (
        2,
        "error: data/raw/scenes/images.parquet is not there: run dvc repro\n",
    )
