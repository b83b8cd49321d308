"""Ask git for the commit of the whole workspace, and for the last commit that touched the code of
one row."""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

# Files that every row depends on, besides the code of its stages.
ALWAYS = ["params.yaml", "requirements/lock.txt"]


def row_code(graph: Path, stages: Iterable[str], names: dict[str, str]) -> list[str]:
    """Return `ALWAYS` and the code that these stages of dvc.yaml declare (files and folders of
    pipeline/ and stages/).

    Args:
        names: the values of `${item.<name>}`. A dependency with another name is left out.
    """
    from pipeline.core.yaml12 import read_yaml

    declared = read_yaml(graph)["stages"]
    deps = [_filled(dep, names) for stage in stages for dep in declared[stage]["do"]["deps"]]
    code = {dep for dep in deps if dep.startswith(("pipeline/", "stages/")) and "$" not in dep}
    return [*ALWAYS, *sorted(code)]


def _filled(dep: str, names: dict[str, str]) -> str:
    return re.sub(r"\$\{item\.(\w+)\}", lambda found: names.get(found[1], found[0]), dep)


def code_commit(paths: list[str]) -> str | None:
    """Return the short hash of the last commit that touched `paths`, or None if git finds none. A
    `+` follows it if they have changed since.

    Commits to other files do not change it, so a fresh clone reproduces reports/ byte for byte.
    """
    commit = _git("log", "-1", "--format=%h", "--abbrev=7", "--", *paths)
    return (
        f"{commit}+" if commit and _git("status", "--porcelain", "--", *paths) else commit or None
    )


def git_commit(ignore: list[Path]) -> str:
    """Return the hash of HEAD, with `-dirty` appended if a tracked file differs; `none` outside a
    repository.

    Args:
        ignore: paths whose changes do not count.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return "none"
    others = (f":!{path}" for path in ignore)
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *others)
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    """Return standard output; '' if git is missing, fails or hangs."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
