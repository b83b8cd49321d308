"""The commit that a row's figures stand for: the last that changed the code of its stages, or parameters.

A later commit of text, of results or of code that the row does not run leaves it as it is, so a fresh clone reproduces reports/
byte for byte.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

ALWAYS = ["params.yaml", "requirements/lock.txt"]


def row_code(graph: Path, stages: Iterable[str], names: dict[str, str]) -> list[str]:
    """The files of pipeline/ and stages/ that these stages of dvc.yaml declare, and `ALWAYS`.

    Args:
        names: what stands for `${item.<name>}`; a file of another name is left out.
    """
    import yaml

    declared = yaml.safe_load(graph.read_text(encoding="utf-8"))["stages"]
    files = [_filled(dep, names) for stage in stages for dep in declared[stage]["do"]["deps"]]
    return [*ALWAYS, *sorted({file for file in files if file.startswith(("pipeline/", "stages/")) and "$" not in file})]


def _filled(dep: str, names: dict[str, str]) -> str:
    return re.sub(r"\$\{item\.(\w+)\}", lambda found: names.get(found[1], found[0]), dep)


def code_commit(paths: list[str]) -> str | None:
    """Short hash of the last commit that touched `paths`, `+` behind it where they have changed since; None without git."""
    if not shutil.which("git"):
        return None
    commit = _git("log", "-1", "--format=%h", "--abbrev=7", "--", *paths)
    return f"{commit}+" if commit and _git("status", "--porcelain", "--", *paths) else commit or None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
