"""timm is imported without torch's compiler, or else as usual."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workspace import ROOT

SAY = """
import sys
from pipeline.encoders.shared import quick_import
{before}
found = quick_import.import_without_compiler({name!r})
print(found.__name__, "torch._dynamo" in sys.modules)
"""


def said(name: str, before: str = "", path: str = "") -> list[str]:
    """The package's name, and whether the compiler is imported, in a process of its own."""
    code = f"import sys; sys.path.append({path!r})\n" + SAY.format(name=name, before=before)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_timm_is_imported_without_the_compiler_of_the_installed_torch() -> None:
    assert said("timm") == ["timm", "False"]


def test_another_torch_gets_its_own_compiler() -> None:
    assert said("timm", "quick_import.TRIED = ('0.0.',)") == ["timm", "True"]


def test_a_package_that_asks_more_of_the_compiler_is_imported_as_usual(tmp_path: Path) -> None:
    package = tmp_path / "greedy"
    package.mkdir()
    (package / "__init__.py").write_text("from greedy import part\n")
    (package / "part.py").write_text("import torch._dynamo\ntorch._dynamo.config\n")
    assert said("greedy", path=str(tmp_path)) == ["greedy", "True"]


def test_the_compiler_works_after_timm() -> None:
    before = "quick_import.import_without_compiler('timm')\nimport torch\n"
    before += "assert torch._dynamo.is_compiling() is False"
    assert said("timm", before) == ["timm", "True"]


def test_a_package_that_is_not_there_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        said("nowhere_to_be_found")
    assert "ModuleNotFoundError" in error.value.stderr
