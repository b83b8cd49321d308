"""Every Parquet file that a stage reads, damaged in every way that `tests.tampered` knows."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.torture.cases import READERS
from tests.workspace import ROOT, environment

pytestmark = pytest.mark.slow


def test_a_damaged_table_is_one_line_from_every_stage_that_reads_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tampered", str(tmp_path / "w")],
        cwd=ROOT,
        env=environment(ROOT),
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)
    wrong = [
        f"{case['stage']}, {case['file']}, {case['way']}: {case['faults']}\n{case['said']}"
        for case in results
        if case["faults"]
    ]
    assert not wrong, "\n".join(wrong)
    refused = Counter(case["stage"] for case in results if case["status"] == 2)
    without_tables = {"publish"}
    assert refused.keys() == set(READERS) - without_tables
