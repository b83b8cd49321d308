"""Nothing is computed twice: not after a change and its reversal, not in an experiment, and not in
a second clone."""

from pathlib import Path

import pytest

from pipeline.data.files import digest
from tests.workspace import (
    commit_all,
    make_workspace,
    remember,
    repro,
    run,
    tiny_params,
    tool,
)

pytestmark = pytest.mark.slow

VARIANTS = ("merge", "lstm")


def params() -> dict:  # type: ignore[type-arg]
    """Return params with two variants of one seed each."""
    out = tiny_params()
    out["variants"] = {name: out["variants"][name] for name in VARIANTS}
    out["variants"]["lstm"]["train"].pop("seeds")
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository in which the graph has run. The lock file and reports are committed, and a
    local folder is its DVC remote."""
    root = tmp_path_factory.mktemp("restored")
    folder = make_workspace(root / "first", params(), git=True)
    run(folder, tool("dvc"), "remote", "add", "-q", "-d", "shelf", str(root / "shelf"))
    commit_all(folder)
    remember(folder, tmp_path_factory)
    repro(folder)
    commit_all(folder)
    return folder


def outputs(folder: Path) -> dict[str, str]:
    """Return the digest of every file that the graph made, including MLflow's receipts."""
    roots = [folder / name for name in ("data", "models", "reports")]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): digest(path) for path in files if path.name != ".lock"}


def test_a_second_clone_pulls_everything_and_runs_what_speaks_to_people_alone(
    finished: Path,
) -> None:
    run(finished, tool("dvc"), "push", "-q", "--run-cache")
    second = finished.parent / "second"
    run(finished, "git", "clone", "-q", str(finished), str(second))
    assert not (second / "data").exists()
    assert repro(second, "--pull") == [f"track@{name}" for name in sorted(VARIANTS)]
    assert outputs(second) == outputs(finished)
    assert (second / "mlflow.db").is_file()
    assert run(second, tool("dvc"), "status").stdout.strip() == "Data and pipelines are up to date."
    assert run(second, "git", "status", "--porcelain").stdout == ""


def test_an_experiment_with_values_seen_before_is_restored(finished: Path) -> None:
    change = ["-S", "train.lr=0.004"]
    first = run(finished, tool("dvc"), "exp", "run", "-n", "higher", *change, check=False)
    assert "Running stage 'train@merge'" in first.stdout, first.stdout + first.stderr
    run(finished, tool("dvc"), "exp", "remove", "-A")
    again = run(finished, tool("dvc"), "exp", "run", "-n", "higher", *change)
    assert "Running stage 'train@merge'" not in again.stdout
    assert "Running stage 'score@merge'" not in again.stdout
    shown = run(finished, tool("dvc"), "exp", "show", "--csv").stdout
    assert "higher" in shown
    assert "test.cider" in shown
    assert "merge.json" in run(finished, tool("dvc"), "metrics", "diff", "--md", "--all").stdout
    run(finished, tool("dvc"), "plots", "diff", "-o", "plots_html")
    assert "val_cider" in (finished / "plots_html/index.html").read_text()


def test_a_key_that_a_row_lacks_is_set_with_a_plus_as_the_how_to_says(finished: Path) -> None:
    queue = (tool("dvc"), "exp", "run", "--queue", "-S")
    key = "variants.merge.decode.beam=5"
    try:
        refused = run(finished, *queue, key, check=False)
        assert refused.returncode != 0
        for number, plus in enumerate(("+", "++"), 1):
            run(finished, *queue, f"{plus}{key}")
            shown = run(finished, tool("dvc"), "queue", "status").stdout
            assert shown.count("Queued") == number
    finally:
        run(finished, tool("dvc"), "exp", "remove", "--queue")
