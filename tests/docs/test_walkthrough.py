"""Run the code blocks of README, tutorial and notebook in a tiny workspace, as a reader types them.

Some commands cannot run here and are only parsed (test_commands.py): those that build .venv, open a
page or a server until Ctrl-C, or use the real Flickr8k.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from pipeline.data.shards import Shards, write_picture
from tests.docs.pages import Block, blocks, commands
from tests.workspace import (
    ROOT,
    commit_all,
    environment,
    make_workspace,
    remember,
    repro,
    run,
    tiny_params,
    tool,
    write_params,
)

pytestmark = pytest.mark.slow

TUTORIAL = ROOT / "docs/tutorial/first-table.md"
README = ROOT / "README.md"
FILES = ROOT / "docs/reference/files.md"
NOTEBOOK = ROOT / "examples/first-table.ipynb"
# Commands that are parsed but not run, with the reason.
ELSEWHERE = {
    "make": "builds an environment; its recipe is that of the fixture",
    "source": "the environment of the tests is active",
    "cp": "a real data set follows",
    "captionlab app": "waits for Ctrl-C",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after `make repro`: the graph has run and the runs are synchronised. Everything
    is committed."""
    recipe = (ROOT / "Makefile").read_text().split("\nrepro: env\n")[1].split("\n\n")[0]
    assert re.findall(r"\$\(BIN\)/(.+)", recipe)[1:] == [
        "dvc repro", "captionlab sync --quiet", "captionlab results",
    ]  # fmt: skip
    folder = make_workspace(tmp_path_factory.mktemp("docs") / "captionlab", tiny(), git=True)
    remember(folder, tmp_path_factory)
    repro(folder)
    run(folder, tool("captionlab"), "sync", "--quiet")
    commit_all(folder)
    return folder


def tiny() -> dict[str, Any]:
    params = tiny_params()
    params["variants"]["lstm"]["train"].pop("seeds")
    return params


def runs_here(block: Block) -> bool:
    """Return whether no command of a block is in `ELSEWHERE`. One such command excludes the whole
    block."""
    given = [" ".join(words) for words in commands(block.text)]
    return not any(line.split()[0] in ELSEWHERE or line in ELSEWHERE for line in given)


def shell(folder: Path, script: str) -> str:
    """Run a block with bash, which stops at the first error. Return its standard output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def with_variants(block: Block) -> dict[str, Any]:
    """Return the tiny params with the rows of a block. Their layers are as narrow as the others."""
    params = tiny()
    for name, row in yaml.safe_load(block.text)["variants"].items():
        row["args"] = {k: 8 if type(v) is int else v for k, v in row["args"].items()}
        params["variants"][name] = row
    return params


def walk(page: Path, folder: Path) -> dict[str, str]:
    """Run a page from top to bottom. Return the output of each block that ran, by its first
    line."""
    printed = {}
    for block in blocks(page):
        if block.language == "yaml":
            write_params(folder, with_variants(block))
        elif block.language == "bash":
            lines = [line for line in block.text.splitlines() if line not in ELSEWHERE]
            if runs_here(Block(page, "bash", "\n".join(lines))):
                printed[block.text.splitlines()[0]] = shell(folder, "\n".join(lines))
    write_params(folder, tiny())
    return printed


def test_the_tutorial_runs(finished: Path) -> None:
    picture = re.search(r"captionlab caption (\S+)", TUTORIAL.read_text())
    assert picture is not None
    printed = walk(TUTORIAL, finished)
    assert "soft-attention" in printed["captionlab results"]
    changed = printed["captionlab plan params.yaml"]
    assert "Running stage 'train@merge'" in changed
    assert "Running stage 'train@lstm'" not in changed
    assert "dvc_plots" in printed["dvc metrics diff"]
    every = run(finished, tool("dvc"), "metrics", "diff", "--all", "--md").stdout
    assert re.search(r"merge\.json *\| test\.cider", every)  # A change, if there is one.
    assert f"{picture[1]}\t" in printed["captionlab register"]


def test_the_old_value_is_restored_as_the_tutorial_says(finished: Path) -> None:
    assert "train@merge" not in repro(finished)


def test_the_readme_runs(finished: Path) -> None:
    scene = next(iter(Shards(finished / "data/raw/scenes")))
    (finished / "photo.jpg").write_bytes(scene.read())
    printed = walk(README, finished)
    assert "Running stage 'train@soft-attention-slow'" in printed["captionlab plan params.yaml"]
    assert printed["captionlab register"].splitlines()[-1].startswith("photo.jpg\t")


def test_the_blocks_of_python_run(finished: Path) -> None:
    """Runs the blocks of README and of the pages on calling captionlab, one after another."""
    first, second, *_ = Shards(finished / "data/raw/scenes")
    (finished / "photo.jpg").write_bytes(first.read())
    write_picture(second, finished / "photos")
    said = {"1": "a red star", "2": "two blue squares"}
    told = {"1": ["a red star", "a star"], "2": ["two squares", "blue squares"]}
    for name in ("predictions", "system-a", "system-b"):
        (finished / f"{name}.json").write_text(json.dumps(said))
    (finished / "references.json").write_text(json.dumps(told))
    run(finished, tool("captionlab"), "register")
    pages = [
        README,
        *(
            ROOT / f"docs/howto/{n}.md"
            for n in ("caption-pictures", "compare-captions", "another-language")
        ),
    ]
    printed = {
        page.stem: run(finished, sys.executable, "-c", block.text).stdout
        for page in pages
        for block in blocks(page, "python")
    }
    assert "cider" in printed["README"]
    assert "most-frequent--scenes" in printed["README"]
    assert printed["caption-pictures"].startswith(f"photos/{second.file} ")
    assert "difference" in printed["compare-captions"]
    assert "sacrebleu's tokenizer zh" in printed["another-language"]


def test_the_readme_names_the_figures_of_its_table() -> None:
    """The figures equal those of reports/flickr8k-offline in every digit."""
    rows = re.findall(r"^\| ([\w -]+) \|((?: [\d.]+ \|)+)$", README.read_text(), re.MULTILINE)
    reports = ROOT / "reports/flickr8k-offline"
    table = (reports / "tables/all.md").read_text() + (
        reports / "bfloat16/tables/all.md"
    ).read_text()
    table = re.sub(r"\*\*| ±[\d.]+", "", table)
    for name, cells in rows:
        if name == "hard-attention":  # It was run later, so its scores have a file of their own.
            scores = json.loads(
                (ROOT / "reports/flickr8k-offline/scores/hard-attention.json").read_text()
            )["test"]
            known = [f"{scores[m]:.3f}" for m in ("bleu_1", "bleu_4", "meteor", "rouge_l", "cider")]
        else:
            line = re.search(rf"^\| {name} +\|(.+)$", table, re.MULTILINE)
            assert line is not None, name
            full = [cell.strip() for cell in line[1].split("|")]
            known = [f"{float(full[n]):.3f}" for n in (0, 3, 4, 5, 6)]
        assert re.findall(r"[\d.]+", cells) == known, name
    assert len(rows) == 11


def documented() -> dict[str, set[str]]:
    """Return, for each `folder/file`, the names in backticks in its line on the page of files."""
    found = {}
    for section in FILES.read_text().split("\n### ")[1:]:
        folder = section.splitlines()[0].strip("/")
        for names, text in re.findall(r"^\| (`[^|]+`) \| (.+) \|$", section, re.MULTILINE):
            for name in re.findall(r"`([^`]+)`", names):
                found[f"{folder}/{name}"] = set(re.findall(r"`([\w<>]+)`", text))
        if folder.endswith(".csv"):
            found[folder] = set(re.findall(r"`(\w+)`", section))
    return found


def columns(path: Path) -> list[str]:
    from pyarrow.parquet import read_schema

    if path.suffix == ".parquet":
        return list(read_schema(path).names)
    if path.suffix == ".csv":
        return path.read_text().splitlines()[0].split(",")
    return list(json.loads(path.read_text()))


CHECKED = [
    ("data/raw/DATASET/captions.parquet", "data/raw/scenes/captions.parquet"),
    ("data/raw/DATASET/images.parquet", "data/raw/scenes/images.parquet"),
    *(
        (f"data/corpora/CORPUS/{name}.parquet", f"data/corpora/scenes/{name}.parquet")
        for name in ("captions", "rejected", "images")
    ),
    ("data/features/FEATURES/ids.parquet", "data/features/scenes-lite0/ids.parquet"),
    ("data/features/FEATURES/rejected.parquet", "data/features/scenes-lite0/rejected.parquet"),
    ("data/history/VARIANT.csv", "data/history/merge.csv"),
    *(
        (f"data/captions/VARIANT/{name}.parquet", f"data/captions/soft-attention/{name}.parquet")
        for name in ("captions", "searches", "teacher_forced", "attention")
    ),
    ("data/scores/VARIANT/scores.csv", "data/scores/merge/scores.csv"),
    ("data/scores/VARIANT/about.json", "data/scores/merge/about.json"),
]


@pytest.mark.parametrize(("page", "file"), CHECKED)
def test_a_files_columns_are_those_of_the_page(finished: Path, page: str, file: str) -> None:
    told = documented()[page]
    for column in columns(finished / file):
        general = re.sub(r"^(split|train)_(?!id|loss|reward|baseline).+", r"\1_<", column)
        assert column in told or any(t.startswith(general) for t in told), column


def test_every_place_of_the_page_is_filled(finished: Path) -> None:
    for section in re.findall(r"^### (data/\S+|models/\S+)", FILES.read_text(), re.MULTILINE):
        pattern = re.sub(r"[A-Z]{3,}", "*", section).rstrip("/")
        assert list(finished.glob(pattern)), section


def outputs(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Return the kinds of output of each code cell."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    return [[o.get("name", o.output_type) for o in cell.outputs] for cell in cells]


def test_the_notebook_runs_and_shows_what_its_committed_outputs_show(finished: Path) -> None:
    run(finished, tool("captionlab"), "register")
    committed = nbformat.read(NOTEBOOK, as_version=4)
    again = nbformat.from_dict(committed)
    place = {"metadata": {"path": str(finished)}}
    NotebookClient(again, timeout=300, resources=place).execute(env=environment(finished))
    assert outputs(again) == outputs(committed)
    assert not any("stderr" in kinds for kinds in outputs(committed))
    assert NOTEBOOK.stat().st_size < 300_000
