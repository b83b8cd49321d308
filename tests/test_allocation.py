"""A process that calls `give_back` has its memory from the system's allocator, and gives large blocks back."""

import platform
import subprocess
import sys

import pytest

from tests.workspace import ROOT

CALL = "from pipeline.allocation import give_back; give_back()"
HELD = """
import os
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
large = b"x" * 30_000_000
del large  # from now on glibc takes smaller blocks from its heap, and those that lie below another stay there
before = resident()
pairs = [(b"x" * 5_000_000, b"x" * 100_000) for _ in range(40)]
kept = [small for _, small in pairs]
del pairs
print(resident() - before)
"""


def printed(*code: str) -> str:
    """By a process whose environment says nothing of allocators."""
    environment = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "\n".join(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_blocks_that_glibc_would_keep_go_back_when_they_are_freed() -> None:
    """40 blocks of 5 MB, freed, with 4 MB still in use between them."""
    assert float(printed(HELD)) > 150
    assert float(printed(CALL, HELD)) < 20


def test_arrow_allocates_as_the_system_does() -> None:
    backend = "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    assert printed(CALL, backend) == "system"
