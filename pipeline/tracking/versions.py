"""Provenance of a variant's files: their entries in dvc.lock, the commit and the installed
packages."""

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.git import git_commit
from pipeline.core.yaml12 import read_yaml
from pipeline.data.files import digest, fingerprint

STAGES = ("train", "caption", "score")
PACKAGES = (
    "captionlab",
    "dvc",
    "mlflow",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "pandas",
    "pycocoevalcap",
)
CODE = (".py", ".yaml")

Entries = dict[str, dict[str, Any]]


def lock_entries(lock: Path, variant: str) -> Entries:
    """Return the entries of dvc.lock for the stages that produced a variant: command, dependencies,
    params and outputs with their hashes.

    Raises:
        UserError: dvc.lock is missing, cannot be read, or lacks one of the stages.
    """
    if not lock.is_file():
        raise UserError(
            f"there is no {lock}, so the inputs of '{variant}' are unknown: run dvc "
            f"repro track@{variant}"
        )
    stages = _read(lock).get("stages", {})
    for stage in STAGES:
        if f"{stage}@{variant}" not in stages:
            raise UserError(f"{lock} has no {stage}@{variant}: run dvc repro track@{variant}")
    return {stage: stages[f"{stage}@{variant}"] for stage in STAGES}


def _read(lock: Path) -> dict[str, Any]:
    return read_yaml(lock, "a merge conflict?") or {}


def entries_fingerprint(entries: Entries) -> str:
    """Return one key for params, code and data. Any change of these changes an entry, and so the
    key."""
    return fingerprint(entries)


def check_outputs(entries: Entries, variant: str) -> None:
    """Check that the files of the workspace match dvc.lock. Otherwise a run could hold one state
    under the fingerprint of another.

    Raises:
        UserError: an output is missing or differs.
    """
    for entry in entries.values():
        for out in entry.get("outs", []):
            path = Path(out["path"])
            if not path.exists():
                raise UserError(
                    f"{path} is missing: run dvc repro track@{variant}, or dvc checkout {path}"
                )
            if dvc_md5(path) != out["md5"]:
                raise UserError(f"{path} is not what dvc.lock says: run dvc repro track@{variant}")


def check_params(entries: Entries, current: dict[str, Any], variant: str) -> None:
    """Check that params.yaml still has the values with which dvc.lock says the variant was made.
    Otherwise a run could record later edits.

    Args:
        current: all of params.yaml, by section.

    Raises:
        UserError: a value has changed since.
    """
    for entry in entries.values():
        for name, value in entry.get("params", {}).get("params.yaml", {}).items():
            if _at(current, name) != value:
                raise UserError(
                    f"{name} in params.yaml has changed since {variant} was made: run dvc "
                    f"repro track@{variant}"
                )


def check_inputs(entries: Entries, current: dict[str, Path], variant: str) -> None:
    """Check the same for names that stand for files that `train` depends on. For these, dvc.lock
    has paths instead of values.

    Args:
        current: key of the variant's row -> path of the file or folder that params.yaml names now.

    Raises:
        UserError: a name has changed since.
    """
    paths = {dep["path"] for dep in entries["train"]["deps"]}
    for key, path in current.items():
        if path.as_posix() not in paths:
            raise UserError(
                f"variants.{variant}.{key} in params.yaml has changed since {variant} "
                "was made: run "
                f"dvc repro track@{variant}"
            )


def _at(tree: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def dvc_md5(path: Path) -> str:
    """Return DVC's hash of a file or folder. The hash of a folder is the md5 of its list of files,
    followed by `.dir`."""
    if path.is_file():
        return digest(path)
    files = sorted(
        (p.relative_to(path).as_posix(), digest(p)) for p in path.rglob("*") if p.is_file()
    )
    listing = [{"md5": md5, "relpath": name} for name, md5 in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def version_tags(entries: Entries, ignore: list[Path]) -> dict[str, str]:
    """Return tags with the hash of every input and output data file, the commit, and package
    versions.

    Args:
        ignore: paths that DVC itself rewrites. Changes of them do not make the commit dirty.
    """
    files = [
        item
        for entry in entries.values()
        for key in ("deps", "outs")
        for item in entry.get(key, [])
    ]
    data = {
        f"dvc.{item['path']}": item["md5"]
        for item in files
        if not item["path"].endswith(CODE) and "md5" in item
    }
    commit = git_commit(ignore)
    source = {} if commit == "none" else {"mlflow.source.git.commit": commit.removesuffix("-dirty")}
    return {
        **data,
        **source,
        "git.commit": commit,
        "version.python": platform.python_version(),
        **_package_versions(),
    }


def _package_versions() -> dict[str, str]:
    out = {}
    for package in PACKAGES:
        try:
            out[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            out[f"version.{package}"] = "not installed"
    return out
