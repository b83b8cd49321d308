"""The commit that a figure was made at: the last one that changed code or parameters, so that a later text edit is none."""

import shutil
import subprocess


def code_commit(paths: list[str]) -> str | None:
    """Short hash of the last commit that touched `paths`, `+` behind it where they have changed since; None without git."""
    if not shutil.which("git"):
        return None
    commit = _git("log", "-1", "--format=%h", "--abbrev=7", "--", *paths)
    return f"{commit}+" if commit and _git("status", "--porcelain", "--", *paths) else commit or None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
