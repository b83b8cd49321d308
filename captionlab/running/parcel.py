"""Pack the workspace as a parcel for the nodes of a cluster: everything but its data."""

import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from captionlab.running.worker import Parcel
from pipeline.core import paths
from pipeline.core.alike import versions
from pipeline.core.errors import UserError, one_line
from pipeline.experiment.params import Params

# The files that stages need to run; they do not need the rest of a repository.
CODE = ("captionlab", "pipeline", "stages", "dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config")
# Files that are of no use on a node, or different each time.
LEFT_OUT = ("__pycache__", ".git/hooks", ".git/logs")
# Prefixes of environment variables that stages and DVC's remotes read.
PASSED_ON = ("CAPTIONLAB_", "MLFLOW_", "HF_", "AWS_", "AZURE_", "GOOGLE_")
THREADS = "OMP_NUM_THREADS"


def pack(params: Params, token: str) -> Parcel:
    """Pack the workspace in the working directory.

    Raises:
        UserError: params.yaml names a file that a node would not find.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        objects = Path(repo.cache.local.path)  # files/md5 of the cache
        cache, remote = str(objects.parents[1]), _remote(repo.config)
    return Parcel(
        files=_tar([*CODE, *named(params)]),
        versions=versions(),
        environment=_environment(),
        remote=remote,
        cache=cache,
        checkpoints=str(paths.CHECKPOINTS.absolute()),
        token=token,
        shared=False,
    )


def new_token() -> str:
    return f".captionlab-{uuid4().hex}"


def named(params: Params) -> list[str]:
    """Return the files and folders that arguments of variants and feature sets name.

    Absolute paths are left out: nodes find those on a shared disk.

    Raises:
        UserError: a relative path leads out of the workspace.
    """
    arguments = {f"variants.{name}": item.args for name, item in params.variants.items()}
    arguments |= {f"features.{name}": item.args for name, item in params.features.items()}
    texts = [
        (where, key, text)
        for where, args in arguments.items()
        for key, text in args.items()
        if isinstance(text, str) and text
    ]
    found = []
    for where, key, text in texts:
        path = Path(text)
        if path.is_absolute() or not path.exists():
            continue
        if not path.resolve().is_relative_to(Path.cwd().resolve()):
            raise UserError(
                f"{where}.args.{key} names {text}, which is outside this workspace: on a cluster "
                "give its absolute path on a disk that all nodes share"
            )
        found.append(os.path.normpath(text))
    return list(dict.fromkeys(found))


def _tar(names: list[str]) -> bytes:
    """Return a tar file without times and owners, so that equal workspaces make equal parcels."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar, tempfile.TemporaryDirectory() as folder:
        for name in names:
            if Path(name).exists():
                tar.add(name, filter=_plain)
        if _clone_git(Path(folder)):
            tar.add(Path(folder) / "clone/.git", ".git", filter=_plain)
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if any(name in entry.name for name in LEFT_OUT):
        return None
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
    return entry


def _clone_git(folder: Path) -> bool:
    """Clone this repository's history, because scores name the commit of their code.

    Return whether the workspace is a repository.

    Raises:
        UserError: git is not there, or fails.
    """
    if not Path(".git").exists():
        return False
    command = ["git", "clone", "-q", "--no-checkout", "--no-hardlinks", "."]
    try:
        done = subprocess.run([*command, str(folder / "clone")], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"git cannot be called ({one_line(error)}): install it") from None
    if done.returncode:
        raise UserError(f"git clone of this workspace failed: {' '.join(done.stderr.split())}")
    return True


def _environment() -> dict[str, str]:
    own = {key: text for key, text in os.environ.items() if key.startswith(PASSED_ON)}
    if THREADS in os.environ:
        own[THREADS] = os.environ[THREADS]
    if "MLFLOW_TRACKING_URI" not in own:  # a node's own store is lost; `track` fills the head's
        own["CAPTIONLAB_LIVE_SECONDS"] = "inf"
    return own


def _remote(config: Any) -> str:
    """Return the text that adds the default remote to .dvc/config.local of another folder."""
    name = config["core"].get("remote")
    if not name:
        return ""
    options = "".join(f"    {key} = {text}\n" for key, text in config["remote"][name].items())
    return f"[core]\n    remote = {name}\n['remote \"{name}\"']\n{options}"
