"""Real faults of a machine, not mocked ones: a full or read-only disk, and a user who is not root.
They need root, as in a container. Elsewhere the tests that use them are skipped."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workspace import ROOT

NOBODY = 65534
# Bytes left free on the full disk. A small file still fits, so no code can mistake the disk for a
# folder in which nothing can be written.
LEFT = 20_000
# A shell script. The interpreter may lie below a folder that the user may not enter. In a mount
# namespace of its own, the script mounts an open folder there that contains only the
# interpreter. It then runs the command as the user.
REACH = """
mkdir -p "$1" && mount --bind "$0" "$1" && mount -t tmpfs -o mode=755 none "$2" && mkdir -p "$0" &&
mount --move "$1" "$0" && shift 2 && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount an empty file system of this size at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """Mount a small file system at `folder` and fill it until `LEFT` bytes are free."""
    with disk(folder, "128k"):
        fill(folder)
        yield folder


def fill(folder: Path) -> None:
    """Fill the file system of `folder` until `LEFT` bytes are free, with a file `filled`."""
    (folder / "filled").write_bytes(b"\0" * (shutil.disk_usage(folder).free - LEFT))


def make_read_only(folder: Path) -> None:
    """Make the file system that is mounted at `folder` read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def as_nobody(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` as a user who is not root, has no home and owns no file."""
    if os.getuid() or not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    base = Path(sys.base_prefix)
    closed = [p for p in [*reversed(base.parents)][1:] if not p.stat().st_mode & 0o001]
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if closed:
        scratch = f"/tmp/.{base.name}.{os.getpid()}"
        user = ["unshare", "-m", "sh", "-c", REACH, str(base), scratch, str(closed[0])]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(
        [*user, sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
