"""With a user who is not root, or a full disk, nothing is half-written, and one line says what to
change."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import let_through
from tests.faults import NOBODY, as_nobody, disk, make_read_only
from tests.workspace import ROOT, tiny_params, write_params

REFUSED = "may not be written or read by this user: change its permissions, then run the same "
READERS = """
import sys
from pathlib import Path
from pipeline.core.errors import UserError
from pipeline.data.checked import read_json, read_table
from pipeline.data.corpus import Captions
from pipeline.decoders.shared.model_folder import load_model
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.parts import Parts
from pipeline.report.cost_table import parameters
from pipeline.results.history import read_history
from pipeline.results.scores import ScoreTable
from pipeline.training.checkpoint import read_checkpoint

readers = {
    "json": read_json,
    "table": read_table,
    "captions": lambda file: list(Captions(file, ["train"], ["text"])),
    "history": read_history,
    "scores": ScoreTable.read,
    "weights": parameters,
    "model": lambda file: load_model(file.parent / "model"),
    "tokenizer": Tokenizer.load,
    "checkpoint": lambda file: read_checkpoint(file, "key"),
    "features": lambda file: Parts(file.parent / "model", "grid"),
}
for name, read in readers.items():
    try:
        read(Path("closed"))
        print(name, "was read")
    except PermissionError:
        print(name)
    except UserError as error:
        print(name, error)
"""


def test_a_workspace_of_another_user_is_one_line_and_ones_own_works(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    workspace.mkdir(mode=0o755)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o011)
    write_params(workspace, tiny_params())
    done = as_nobody(workspace, "-m", "stages.download", "scenes")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: data {REFUSED}command again\n"
    assert [path.name for path in workspace.iterdir()] == ["params.yaml"]
    workspace_of_nobody(workspace)
    assert as_nobody(workspace, "-m", "stages.download", "scenes").stderr == ""
    made = workspace / "data/raw/scenes"
    assert {path.stat().st_uid for path in made.rglob("*")} == {NOBODY}
    (made / "captions.parquet").chmod(0o000)
    done = as_nobody(workspace, "-m", "stages.clean", "scenes")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "captions.parquet" in done.stderr
    assert done.stderr.endswith(f"{REFUSED}command again\n")
    assert not list((workspace / "data/corpora").rglob("*"))


def workspace_of_nobody(folder: Path) -> None:
    import shutil

    shutil.chown(folder, NOBODY, NOBODY)


def test_a_file_that_a_user_may_not_read_is_never_called_damaged(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o011)
    model = tmp_path / "model"
    model.mkdir(mode=0o755)
    closed = ("config.json", "tokenizer.json", "grid-00000.npy")
    for file in (tmp_path / "closed", *(model / name for name in closed)):
        file.write_bytes(b"closed")
        file.chmod(0o000)
    (model / "model.safetensors").touch()
    done = as_nobody(tmp_path, "-c", READERS)
    assert done.stderr == ""
    names = "json table captions history scores weights model tokenizer checkpoint features"
    assert done.stdout.split() == names.split()


def test_a_workspace_on_a_read_only_disk_is_one_line_and_can_be_read(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "16m") as workspace:
        write_params(workspace, tiny_params())
        make_read_only(workspace)
        done = run(workspace, "-m", "stages.download", "scenes")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "error: data is on a disk that is read-only here: work in a copy that can be written, "
            "then run the same command again\n"
        )
        done = run(workspace, "-m", "captionlab", "results")
        assert (done.returncode, done.stderr) == (0, "")
        assert [path.name for path in workspace.iterdir()] == ["params.yaml"]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC])
def test_what_a_disk_refuses_goes_through_every_reader(code: int) -> None:
    with pytest.raises(OSError, match="refused"):
        let_through(OSError(code, "refused"))
    let_through(OSError(errno.ENOENT, "not there"))
    let_through(ValueError("refused"))
