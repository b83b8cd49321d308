"""Start-up time of every stage: `python -m benchmarks.startup` ->
benchmarks/results/startup.{json,md}.

Each stage is imported in a fresh process, with everything that its main function imports. These
imports are read from its source, for one decoder, encoder and source. The same run measures an
empty Python process and `import torch` for comparison.
"""

import ast
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BY_NAME = {
    "download": "sources.scenes",
    "extract": "encoders.timm_model",
    "train": "decoders.soft_attention",
} | {"caption": "decoders.soft_attention"}
# Every stage begins with this.
PRELUDE = "from pipeline.core.stage import collect_seldom; collect_seldom()"
REPEATS = 3


def statements(stage: str) -> list[str]:
    """Return the imports of a stage file at any depth, except for those under an `if`, as for type
    checking. Add the module that the stage finds by name."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    hidden = {
        id(n) for block in ast.walk(tree) if isinstance(block, ast.If) for n in ast.walk(block)
    }
    nodes = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in hidden
    ]
    named = [f"import pipeline.{BY_NAME[stage]}"] if stage in BY_NAME else []
    return [*(ast.unparse(n) for n in nodes), *named]


def seconds(code: str) -> float:
    """Return the median wall time of `python -c code`."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def slowest_imports(code: str, count: int = 4) -> list[str]:
    """Return the packages whose own modules take longest to import, each as `name seconds`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    own: dict[str, int] = {}
    for micro, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr):
        own[module.split(".")[0]] = own.get(module.split(".")[0], 0) + int(micro)
    return [f"{name} {own[name] / 1e6:.2f}" for name in sorted(own, key=lambda n: -own[n])[:count]]


def main() -> None:
    limits = {"empty process": seconds("pass"), "import torch": seconds("import torch")}
    rows = []
    for file in sorted((ROOT / "stages").glob("[!_]*.py")):
        code = "\n".join([PRELUDE, *statements(file.stem)])
        rows.append(
            {
                "stage": file.stem,
                "seconds": round(seconds(code), 2),
                "imports": slowest_imports(code),
            }
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    about = {
        "command": "python -m benchmarks.startup",
        "commit": commit or "no git",
        "machine": f"{os.cpu_count()} cores {platform.machine()}, {platform.system()}, Python "
        f"{platform.python_version()}",
        "median_of": REPEATS,
        "limits": {name: round(value, 2) for name, value in limits.items()},
        "stages": rows,
    }
    folder = ROOT / "benchmarks" / "results"
    (folder / "startup.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "startup.md").write_text(table(about))
    print(table(about))


def table(about: dict) -> str:
    head = (
        f"`{about['command']}` at {about['commit']}, {about['machine']}, median of "
        f"{about['median_of']}.\n\n"
    )
    limits = [f"| ({name}) | {value:.2f} | |" for name, value in about["limits"].items()]
    rows = [
        f"| {r['stage']} | {r['seconds']:.2f} | {', '.join(r['imports'])} |"
        for r in about["stages"]
    ]
    return (
        head
        + "\n".join(
            [
                "| stage | seconds to import | its slowest packages (own seconds) |",
                "|---|---|---|",
                *limits,
                *rows,
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
