"""No command overwrites its input, and a path that is not a file or folder gives a one-line
error."""

import json
from pathlib import Path

import pytest

from tests.workspace import tiny_params, write_params

LOST = "is read or written by this command already: name another file\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("said", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"1": "a dog", "2": "a cat"}))
    (tmp_path / "meant.json").write_text(json.dumps({"1": ["a dog"], "2": ["the cat"]}))
    write_params(tmp_path, tiny_params())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("score said.json meant.json --out said.json", "said.json (--out)"),
        ("score said.json meant.json --out ./meant.json", "meant.json (--out)"),
        ("compare said.json other.json meant.json --out other.json", "other.json (--out)"),
        ("compare said.json other.json meant.json --page meant.json", "meant.json (--page)"),
        ("compare said.json other.json meant.json --page x --out x", "x (--page)"),
    ],
)
def test_a_file_that_a_command_reads_is_never_overwritten(captionlab, files, command, said):  # type: ignore[no-untyped-def]
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    assert captionlab(*command.split()) == (2, "", f"error: {said} {LOST}")
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("score said.json meant.json --out folder", "folder (--out) is a folder: name a file"),
        (
            "score said.json meant.json --out no/x",
            "no/x (--out): there is no folder no: make it first",
        ),
        (
            "compare said.json other.json meant.json --page no/x",
            "no/x (--page): there is no folder no",
        ),
        ("score folder meant.json", "folder is a folder: give a file, "),
        ("images scenes scene-00001 --out said.json", "said.json (--out) is a file: name a folder"),
        ("plan folder", "folder is a folder: name a file of YAML"),
        (
            "caption x.png --model merge --dataset scenes",
            "dataset 'scenes' chooses among champions, and the model is merge: leave out one of the two",
        ),
        (
            "serve folder --dataset scenes",
            "dataset 'scenes' chooses among champions, and the model is",
        ),
    ],
)
def test_a_folder_for_a_file_or_an_option_without_use_is_one_line(captionlab, files, command, said):  # type: ignore[no-untyped-def]
    (files / "folder").mkdir()
    status, out, err = captionlab(*command.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1
