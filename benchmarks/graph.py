"""The overhead of the graph: `python -m benchmarks.graph [--whole [FOLDER]]` ->
benchmarks/results/graph.{json,md}.

1. `dvc repro` with nothing to do on 63 stages (14 variants), in wall time and processor time. The
   outputs are made up and committed. It is compared with two graphs of empty commands (`true`).
   One has the same data flow, and no code or parameters to watch. The other has everything that
   dvc.yaml declares.
2. `make repro` in a fresh workspace: its time outside the commands of the stages. A `python` first
   on PATH measures each command. The workspace is that of the tests (36 scenes, one epoch and seed,
   stages that mostly import). With `--whole` it is a clone of the last commit, in FOLDER if it is
   to be kept.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from benchmarks import _common as common
from tests.workspace import environment, make_workspace, run, tiny_params, tool

VARIANTS = 14
REPEATS = 3
# Largest share of the time of `make repro` outside the stages' commands.
GOAL = 0.1
CLOCK = """#!/bin/sh
begun=$(date +%s.%N)
"{python}" "$@"
status=$?
echo "$begun $(date +%s.%N) $*" >> "{log}"
exit $status
"""


def wide_params() -> dict[str, Any]:
    """Return the params of the tests with VARIANTS variants."""
    params = tiny_params()
    kinds = list(params["variants"].values())
    params["variants"] = {f"v{n:02}": kinds[n % len(kinds)] for n in range(VARIANTS)}
    return params


def stages(folder: Path) -> list[Any]:
    """Return the stages with a command, as DVC resolves them."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return [s for s in repo.index.stages if s.cmd]


def make_up_outputs(folder: Path, found: list[Any]) -> None:
    """Write a small file for every output, or into it if it is a folder. Then commit them, as if
    the stages had run."""
    for stage in found:
        for out in stage.outs:
            path = Path(out.fs_path)
            file = path if path.suffix else path / "file.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}\n")
    run(folder, tool("dvc"), "commit", "-f", "-q")


def plain_copy(folder: Path, found: list[Any], target: Path) -> None:
    """Make a graph with the same data flow: outputs, and the outputs from which they are made."""
    target.mkdir()
    made = {out.fs_path for stage in found for out in stage.outs}
    graph = {}
    for stage in found:
        deps = [
            d.def_path
            for d in stage.deps
            if any(d.fs_path == m or m.startswith(d.fs_path + "/") for m in made)
        ]
        outs = [
            out.def_path if out.use_cache else {out.def_path: {"cache": False}}
            for out in stage.outs
        ]
        graph[stage.addressing.replace("@", "-")] = {
            "cmd": "true",
            **({"deps": deps} if deps else {}),
            "outs": outs,
        }
    (target / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    run(target, tool("dvc"), "init", "-q", "--no-scm")
    shutil.copy(folder / ".dvc" / "config", target / ".dvc" / "config")
    make_up_outputs(target, stages(target))


def empty_copy(folder: Path, target: Path) -> None:
    """Copy the graph with everything that it declares, but with empty commands."""
    shutil.copytree(folder, target)
    graph = target / "dvc.yaml"
    graph.write_text(re.sub(r"cmd: .*", "cmd: 'true'", graph.read_text()))
    run(target, tool("dvc"), "commit", "-f", "-q")


def nothing_to_do(folder: Path) -> None:
    done = run(folder, tool("dvc"), "repro")
    assert "Running stage" not in done.stdout, done.stdout


def no_op(root: Path) -> dict[str, Any]:
    ours, plain, empty = (root / name for name in ("ours", "plain", "empty"))
    make_workspace(ours, wide_params())
    found = stages(ours)
    make_up_outputs(ours, found)
    plain_copy(ours, found, plain)
    empty_copy(ours, empty)
    folders = {"captionlab": ours, "plain": plain, "empty": empty}
    processor: dict[str, list[float]] = {name: [] for name in folders}

    def work(name: str) -> None:
        before = os.times()
        nothing_to_do(folders[name])
        after = os.times()
        used = after.children_user + after.children_system
        processor[name].append(used - before.children_user - before.children_system)

    works = {name: partial(work, name) for name in folders}
    for once in works.values():
        once()
    for used in processor.values():
        used.clear()
    times = common.interleaved(works, REPEATS)
    return {
        "stages": len(found),
        "declared": [sum(len(stage.deps) for stage in stages(folders[name])) for name in folders],
        "seconds": medians(times),
        "processor_seconds": medians(processor),
        "ratio": round(common.ratio(times["captionlab"], times["plain"]), 2),
        "processor_ratio": round(common.ratio(processor["captionlab"], processor["plain"]), 2),
        "ratio_to_all_declared": round(common.ratio(times["captionlab"], times["empty"]), 2),
        "yaml_in_c": find_spec("_ruamel_yaml") is not None,
    }


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def clocked(folder: Path, bin_folder: Path) -> dict[str, Any]:
    """Run the commands of `make repro` in this environment and measure them. They run the graph,
    publish what is left, and print the table."""
    log = bin_folder / "clock.txt"
    bin_folder.mkdir()
    (bin_folder / "python").write_text(CLOCK.format(python=sys.executable, log=log))
    (bin_folder / "python").chmod(0o755)
    variables = environment(folder)
    variables |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
    variables["PATH"] = f"{bin_folder}:{variables['PATH']}"
    started = time.perf_counter()
    for command in (["dvc", "repro"], ["captionlab", "sync", "--quiet"], ["captionlab", "results"]):
        subprocess.run(
            [tool(command[0]), *command[1:]],
            cwd=folder,
            env=variables,
            check=True,
            capture_output=True,
        )
    total = time.perf_counter() - started
    lines = [line.split() for line in log.read_text().splitlines()]
    own = sum(float(end) - float(begun) for begun, end, *_ in lines)
    return {
        "stages": len(lines),
        "seconds": round(total, 2),
        "in_stages": round(own, 2),
        "outside": round(total - own, 2),
        "outside_per_stage": round((total - own) / len(lines), 2),
        "share_outside": round((total - own) / total, 3),
    }


def small_params() -> dict[str, Any]:
    """Return the params of the tests, with one seed for every variant."""
    params = tiny_params()
    for variant in params["variants"].values():
        variant["train"].pop("seeds", None)
    return params


def clone(folder: Path) -> Path:
    """Clone the repository. Nothing has run in the clone, but dvc.lock and the reports are those of
    another run."""
    subprocess.run(["git", "clone", "-q", str(common.ROOT), str(folder)], check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--whole", nargs="?", const="", metavar="FOLDER")
    kept = parser.parse_args().whole
    with tempfile.TemporaryDirectory() as folder:
        nothing = no_op(Path(folder))
        place = Path(kept or f"{folder}/real").absolute()
        workspace = make_workspace(place, small_params()) if kept is None else clone(place)
        real = clocked(workspace, Path(folder) / "bin")
    about = {
        **common.environment(),
        "median_of": REPEATS,
        "goal": GOAL,
        "no_op": nothing,
        "workspace": "the tests' tiny workspace" if kept is None else "a fresh clone",
        "repro": real,
    }
    common.save("graph", about, table(about))


def table(about: dict[str, Any]) -> str:
    nothing, real = about["no_op"], about["repro"]
    wall, processor = nothing["seconds"], nothing["processor_seconds"]
    rows = [
        [what, f"{wall[name]} s, {processor[name]} s of the processor"]
        for name, what in (
            ("captionlab", f"dvc repro, nothing to do, {nothing['stages']} stages"),
            ("plain", "the same data flow, empty commands, no code watched"),
            ("empty", "all that dvc.yaml declares, empty commands"),
        )
    ]
    rows += [
        [
            "ratio to the data flow alone",
            f"{nothing['ratio']:.2f}, {nothing['processor_ratio']:.2f} of the processor",
        ],
        ["ratio to all that is declared", f"{nothing['ratio_to_all_declared']:.2f}"],
        [f"make repro, {real['stages']} stages of {about['workspace']}", f"{real['seconds']} s"],
        ["of it inside the stages' commands", f"{real['in_stages']} s"],
        ["outside, per stage", f"{real['outside_per_stage']} s"],
        ["share outside", f"{real['share_outside']:.0%}"],
    ]
    text = (
        f"Median of {about['median_of']} interleaved runs where nothing is to be done, one "
        "run of `make repro`. Goal: "
        f"{GOAL:.0%} outside. DVC read YAML in {'C' if nothing['yaml_in_c'] else 'Python'}."
    )
    return f"{common.introduction(about)} {text}\n\n{common.markdown(['what', 'time'], rows)}"


if __name__ == "__main__":
    main()
