"""What git says: the commit of a whole workspace, and the last commit that touched the code of one
row."""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

ALWAYS = ["params.yaml", "requirements/lock.txt"]
"what every row is made with, beside the code of its stages"


def row_code(graph: Path, stages: Iterable[str], names: dict[str, str]) -> list[str]:
    """The code that these stages of dvc.yaml declare (files and folders of pipeline/ and stages/),
    and `ALWAYS`.

    Args:
        names: what stands for `${item.<name>}`; a dependency of another name is left out.
    """
    from pipeline.core.yaml12 import read_yaml

    declared = read_yaml(graph)["stages"]
    deps = [_filled(dep, names) for stage in stages for dep in declared[stage]["do"]["deps"]]
    code = {dep for dep in deps if dep.startswith(("pipeline/", "stages/")) and "$" not in dep}
    return [*ALWAYS, *sorted(code)]


def _filled(dep: str, names: dict[str, str]) -> str:
    return re.sub(r"\$\{item\.(\w+)\}", lambda found: names.get(found[1], found[0]), dep)


def code_commit(paths: list[str]) -> str | None:
    """Short hash of the last commit that touched `paths`, with `+` when they have changed since;
    None without git.

    Commits of other files leave it as it is, so a fresh clone reproduces reports/ byte for byte.
    """
    commit = _git("log", "-1", "--format=%h", "--abbrev=7", "--", *paths)
    return (
        f"{commit}+" if commit and _git("status", "--porcelain", "--", *paths) else commit or None
    )


def git_commit(ignore: list[Path]) -> str:
    """HEAD, with `-dirty` behind it when a tracked file differs; `none` outside a repository.

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
    """Standard output, or an empty string where git is missing, fails or hangs."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
