"""What an installation contains: scoring without the heavy packages, a one-line error for a missing
extra, and every file that the code reads."""

import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions

import pytest

import captionlab
from captionlab.extras import EXTRAS
from tests.workspace import ROOT

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ["dvc", "mlflow", "great_expectations", "torch", "timm", "transformers", "gradio"]
BLOCK = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Missing())
"""


def fresh(code, folder, *arguments):
    """Run code in a new process, in a folder outside the project."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def command(folder, *arguments):
    """Run `captionlab ARGUMENTS` as if the heavy packages were not installed."""
    code = f"{BLOCK}\nsys.argv[0] = 'captionlab'\nfrom captionlab.__main__ import main\nmain()"
    return fresh(code, folder, *arguments)


def imported(statement, folder):
    """Return the top-level packages that a new process has imported after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = fresh(code, folder)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_captionlab_imports_nothing_heavy(tmp_path):
    assert not imported("import captionlab", tmp_path) & {*HEAVY, "numpy", "pandas", "pydantic"}


def test_evaluate_is_imported_without_the_heavy_packages(tmp_path):
    found = imported("from captionlab import evaluate", tmp_path)
    assert not found & set(HEAVY)
    assert "pandas" in found


def test_every_public_name_is_there_and_has_a_docstring():
    assert set(captionlab.__all__) <= set(dir(captionlab))
    for name in set(captionlab.__all__) - {"__version__"}:
        assert getattr(captionlab, name).__doc__
    with pytest.raises(AttributeError, match="module 'captionlab' has no attribute 'evalute'"):
        captionlab.evalute  # noqa: B018


def test_the_version_is_that_of_pyproject(captionlab):
    status, out, _ = captionlab("--version")
    assert (status, out) == (0, f"captionlab {PROJECT['project']['version']}\n")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"1": "a dog", "2": "cats"}))
    (tmp_path / "r.json").write_text(json.dumps({"1": ["a dog"], "2": ["two cats"]}))
    return tmp_path


def test_evaluate_and_the_command_score_alike_without_the_heavy_packages(files):
    code = f"{BLOCK}\nfrom captionlab import evaluate\nprint(evaluate('p.json', 'r.json'))"
    ours, theirs = fresh(code, files), command(files, "score", "p.json", "r.json")
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    assert ours.stdout == theirs.stdout
    names = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"]
    assert [line.split()[0] for line in ours.stdout.splitlines()[1:8]] == names


def test_a_command_whose_packages_are_missing_names_the_extra(files):
    (files / "model").mkdir()
    done = command(files, "caption", "p.json", "--model", "model")
    told = 'the package torch is not installed: pip install "captionlab[captioning]"'
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {told} (in a clone: make env)\n"
    done = command(files, "register")
    assert done.stderr.endswith(': pip install "captionlab[pipeline]"\n')
    assert done.stderr.count("\n") == 1


def distributions(requirements):
    names = (re.split(r"[\[><=!~ ]", requirement)[0] for requirement in requirements)
    return {name.lower().replace("_", "-") for name in names} - {"captionlab"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_packages_of_an_extra_are_known_by_the_names_that_are_imported(extra):
    imports = {}
    for name, brought_by in packages_distributions().items():
        for distribution in brought_by:
            imports.setdefault(distribution.lower().replace("_", "-"), set()).add(name)
    wanted = distributions(PROJECT["project"]["optional-dependencies"][extra])
    core = distributions(PROJECT["project"]["dependencies"])
    assert not wanted & core
    assert [name for name in sorted(wanted) if not imports[name] & set(EXTRAS[extra])] == []
    assert not {name for one in core for name in imports[one]} & set(EXTRAS[extra])


def test_every_file_beside_the_code_is_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    beside = [
        path
        for package in ("captionlab", "pipeline", "stages")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert {"py.typed", "protocols.yaml", "page.html"} <= {path.name for path in beside}
    assert [path for path in beside if not any(fnmatch(path.name, p) for p in patterns)] == []
