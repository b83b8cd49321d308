"""The commit of a figure is the last one that changed anything on which the figure depends."""

import subprocess
from pathlib import Path

import pytest

from pipeline.core.git import code_commit, row_code
from tests.workspace import ROOT

PATHS = ["code", "params.yaml"]


def git(*arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    return subprocess.run(
        ["git", *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("1")
    (tmp_path / "params.yaml").write_text("lr: 1")
    git("add", "-A")
    git("commit", "-qm", "code")
    return tmp_path


def test_a_later_commit_of_text_leaves_it_and_one_of_code_moves_it(repository: Path) -> None:
    first = git("rev-parse", "--short=7", "HEAD")
    (repository / "README.md").write_text("results")
    git("add", "-A")
    git("commit", "-qm", "text")
    assert code_commit(PATHS) == first
    (repository / "code/a.py").write_text("2")
    git("commit", "-qam", "more code")
    assert code_commit(PATHS) == git("rev-parse", "--short=7", "HEAD") != first


def test_what_is_changed_or_new_and_not_committed_is_marked(repository: Path) -> None:
    first = git("rev-parse", "--short=7", "HEAD")
    (repository / "notes.txt").write_text("of no matter")
    assert code_commit(PATHS) == first
    (repository / "params.yaml").write_text("lr: 2")
    assert code_commit(PATHS) == f"{first}+"
    git("checkout", "params.yaml")
    (repository / "code/b.py").write_text("new")
    assert code_commit(PATHS) == f"{first}+"


def test_without_git_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_commit(PATHS) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_commit(PATHS) is None


def test_a_row_stands_for_the_code_of_its_own_stages() -> None:
    stages = ["download", "clean", "extract", "train", "caption", "score"]
    names = {"source": "scenes", "encoder": "timm_model", "decoder": "merge"}
    code = row_code(ROOT / "dvc.yaml", stages, names)
    assert {
        "params.yaml",
        "stages/train.py",
        "pipeline/decoders/merge.py",
        "pipeline/sources/scenes.py",
    } <= set(code)
    assert {
        "pipeline/training",
        "pipeline/metrics",
        "pipeline/encoders/timm_model.py",
        "pipeline/experiment/protocols",
    } <= set(code)
    assert all((ROOT / file).exists() for file in code)
    assert not {
        "pipeline/decoders/lstm.py",
        "pipeline/report",
        "pipeline/tracking",
        "pipeline/core",
        "README.md",
    } & set(code)
    other = row_code(ROOT / "dvc.yaml", stages, {**names, "decoder": "lstm"})
    assert set(code) ^ set(other) == {"pipeline/decoders/merge.py", "pipeline/decoders/lstm.py"}
