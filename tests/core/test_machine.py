"""`give_back` and `keep_buffers` keep their promises; each is tested in a process of its own."""

import platform
import subprocess
import sys

import pytest

from tests.workspace import ROOT

CALL = "from pipeline.core.machine import give_back; give_back()"
KEEP = "from pipeline.core.machine import keep_buffers; keep_buffers()"
RESIDENT = """
import os
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
"""
FREED = f"""{RESIDENT}
before = resident()
buffer = b"x" * 40_000_000
del buffer
print(resident() - before)
"""
HELD = f"""{RESIDENT}
large = b"x" * 30_000_000
del large  # from now on glibc takes smaller blocks from its heap, and those that lie below another stay there
before = resident()
pairs = [(b"x" * 5_000_000, b"x" * 100_000) for _ in range(40)]
kept = [small for _, small in pairs]
del pairs
print(resident() - before)
"""


def printed(*code: str) -> str:
    """Return what a process prints whose environment does not configure an allocator."""
    environment = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "\n".join(code)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_blocks_that_glibc_would_keep_go_back_when_they_are_freed() -> None:
    """The code frees 40 blocks of 5 MB, with 4 MB still in use between them."""
    assert float(printed(HELD)) > 150
    assert float(printed(CALL, HELD)) < 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_buffer_that_was_freed_is_kept_for_the_next_one() -> None:
    assert float(printed(FREED)) < 5
    assert float(printed(KEEP, FREED)) > 20


@pytest.mark.parametrize("call", [CALL, KEEP], ids=["give_back", "keep_buffers"])
def test_arrow_allocates_as_the_system_does(call: str) -> None:
    backend = "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    assert printed(call, backend) == "system"
