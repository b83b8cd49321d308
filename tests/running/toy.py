"""A workspace whose stages take no time. They run in the project's own way, and their outputs are
hashes of their inputs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.data.files import digest
from tests.workspace import commit_all, environment, make_workspace, run, tool

NAMES = ("a", "b", "c", "d", "e", "f")
STAGE = '''
"""What a toy stage makes: its name, and the digests of what it reads."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.stage import stage

KIND = Path(sys.argv[0]).stem
NOTES = Path(os.environ["CAPTIONLAB_TOY"])
READS = {
    "download": [], "train": ["data/raw/d"], "score": ["models/{}"], "track": ["data/scores/{}"],
    "compare": ["data/scores"],
}
MAKES = {
    "download": "data/raw/{}", "train": "models/{}", "score": "data/scores/{}",
    "track": "data/runs/{}", "compare": "data/report",
}


def main(name: str = "") -> None:
    me = f"{KIND}@{name}" if name else KIND
    begun = time.time()
    with (NOTES / "begun").open("a") as file:
        file.write(f"{me}\\n")
    if (NOTES / f"fail {me}").exists():
        raise UserError(f"{me} was told to fail")
    while (NOTES / f"hold {me}").exists():
        time.sleep(0.05)
    time.sleep(float(os.environ.get("CAPTIONLAB_TOY_SECONDS", "0")))
    read = sorted(
        file for place in READS[KIND] for file in Path(place.format(name)).rglob("*.txt")
    )
    text = me + "".join(hashlib.md5(file.read_bytes()).hexdigest() for file in read)
    out = Path(MAKES[KIND].format(name))
    out.mkdir(parents=True, exist_ok=True)
    (out / "made.txt").write_text(text)
    with (NOTES / "ended").open("a") as file:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        file.write(json.dumps([me, begun, time.time(), gpus, os.getcwd()]) + "\\n")


if __name__ == "__main__":
    stage(main, named=KIND != "compare")
'''
GRAPH = """
stages:
  download:
    foreach: [d]
    do: {cmd: "python -m stages.download ${item}", deps: [stages/download.py], outs: ["data/raw/${item}"]}
  train:
    foreach: NAMES
    do: {cmd: "python -m stages.train ${item}", deps: [stages/train.py, data/raw/d], outs: ["models/${item}"]}
  score:
    foreach: NAMES
    do: {cmd: "python -m stages.score ${item}", deps: [stages/score.py, "models/${item}"], outs: ["data/scores/${item}"]}
  track:
    foreach: NAMES
    do: {cmd: "python -m stages.track ${item}", deps: [stages/track.py, "data/scores/${item}"], outs: ["data/runs/${item}"]}
  compare: {cmd: python -m stages.compare, deps: [stages/compare.py, data/scores], outs: [data/report]}
"""


class Toy:
    """A workspace and its notes: which stages began and ended, and which must fail or wait."""

    def __init__(self, folder: Path, names: tuple[str, ...] = NAMES):
        self.folder, self.notes = folder / "work space", folder / "notes"
        self.notes.mkdir(parents=True)
        make_workspace(self.folder)
        for file in (self.folder / "stages").glob("[!_]*.py"):
            file.unlink()
        for kind in ("download", "train", "score", "track", "compare"):
            (self.folder / f"stages/{kind}.py").write_text(STAGE)
        (self.folder / "dvc.yaml").write_text(GRAPH.replace("NAMES", json.dumps(names)))

    def with_git(self) -> "Toy":
        """Add a git repository and a DVC remote, and commit everything."""
        config = self.folder / ".dvc/config"
        config.write_text(config.read_text().replace("    no_scm = true\n", ""))
        run(self.folder, "git", "init", "-q")
        shelf = str(self.folder.parent / "shelf")
        run(self.folder, tool("dvc"), "remote", "add", "-q", "-d", "shelf", shelf)
        commit_all(self.folder)
        return self

    def environment(self, **more: str) -> dict[str, str]:
        return environment(self.folder, CAPTIONLAB_TOY=str(self.notes), **more)

    def start(self, *options: str, **more: str) -> "subprocess.Popen[str]":
        """Start `captionlab run` and return its process."""
        return subprocess.Popen(
            [sys.executable, "-m", "captionlab", "run", *options],
            cwd=self.folder,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str, **more: str) -> tuple[int, str, str]:
        """Run `captionlab run`. Return its status, standard output and standard error."""
        process = self.start(*options, **more)
        out, errors = process.communicate(timeout=300)
        return process.returncode, out, errors

    def repro(self) -> None:
        done = subprocess.run(
            [tool("dvc"), "repro", "-q"],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def made(self) -> dict[str, str]:
        """Return the digest of every output and of dvc.lock, by path."""
        roots = [self.folder / "data", self.folder / "models"]
        files = [path for root in roots for path in root.rglob("*.txt")]
        return {
            str(path.relative_to(self.folder)): digest(path)
            for path in [*files, self.folder / "dvc.lock"]
        }

    def begun(self) -> list[str]:
        return self._lines("begun")

    def ended(self) -> list[tuple[str, float, float, str, str]]:
        """Return a row for each stage that ended.

        A row has the stage, its begin and end (Unix time in seconds), CUDA_VISIBLE_DEVICES, and the
        working directory.
        """
        return [tuple(json.loads(line)) for line in self._lines("ended")]

    def _lines(self, name: str) -> list[str]:
        path = self.notes / name
        return path.read_text().splitlines() if path.exists() else []

    def mark(self, what: str, stage: str) -> Path:
        """Make a stage `fail` or wait (`hold`) until the returned file is deleted."""
        path = self.notes / f"{what} {stage}"
        path.touch()
        return path


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def processes_in(folder: Path) -> list[int]:
    """Return the ids of the processes whose working directory is in `folder`."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            lives = process.status() != psutil.STATUS_ZOMBIE
            if lives and process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
