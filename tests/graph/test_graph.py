"""The graph as DVC runs it. Stages declare exactly what they import, and a change reruns exactly
the stages that it affects."""

import ast
import csv
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from pipeline.core import registry
from pipeline.data.checked import read_json
from pipeline.data.files import digest
from pipeline.results.scores import MEAN, OWN, Key, ScoreTable
from tests.workspace import (
    ROOT,
    computed,
    environment,
    repro,
    run,
    stage,
    tiny_params,
    tool,
    write_params,
)

# Code that no stage declares. Nothing in core can change an output: test_rooms.py checks this.
# params.py and the modules with which it checks only parse. The values that a stage reads are
# declared as its `params`.
UNDECLARED = (
    "pipeline/core/",
    *(f"pipeline/experiment/{name}.py" for name in ("params", "keys", "names", "together")),
)
# The live curves of a training are not an output, so tracking cannot change what `train` writes.
SIDE_CHANNEL = {"train": ("pipeline/tracking/",)}
# MLflow's models-from-code takes a path to this file. The served process makes its imports, and
# their code is stored whole with the model.
NOT_FOLLOWED = {"track": ("pipeline/tracking/pyfunc.py",)}
REGISTRIES = [
    ("sources", "download"),
    ("encoders", "extract"),
    ("decoders", "train"),
    ("decoders", "caption"),
]


def has_code(file: str) -> bool:
    """Return whether a file has more than a docstring. The __init__.py of most rooms has not."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse((ROOT / file).read_text()).body)


def local_imports(file: str) -> Iterable[str]:
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        paths = [
            path
            for name in names
            for path in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py")
        ]
        yield from (path for path in paths if (ROOT / path).is_file() and has_code(path))


def closure(files: Iterable[str], kind: str) -> set[str]:
    """Return all files reached by imports, also by those inside functions. Files that need not be
    declared are left out."""
    left_out = UNDECLARED + SIDE_CHANNEL.get(kind, ())
    seen: set[str] = set()
    queue = list(files)
    while queue:
        file = queue.pop()
        if file not in seen and not file.startswith(left_out):
            seen.add(file)
            if file not in NOT_FOLLOWED.get(kind, ()):
                queue += local_imports(file)
    return seen


def covers(declared: str, file: str) -> bool:
    return file == declared or file.startswith(f"{declared}/")


def code_of(deps: Iterable[str]) -> set[str]:
    code = {dep for dep in deps if dep.startswith(("pipeline/", "stages/", "captionlab/"))}
    return {dep for dep in code if not dep.endswith(".yaml")}


def python_files(declared: Iterable[str]) -> set[str]:
    """Return the modules in declared folders and files. A stage can import no others by name."""
    found = [
        p
        for d in declared
        for p in ([ROOT / d] if (ROOT / d).is_file() else (ROOT / d).rglob("*.py"))
    ]
    return {
        str(p.relative_to(ROOT)) for p in found if p.suffix == ".py" and p.name != "__init__.py"
    }


def stages() -> list:  # type: ignore[type-arg]
    return [s for s in Repo(str(ROOT)).index.stages if s.cmd]


@pytest.mark.parametrize("stage", stages(), ids=lambda s: s.name)
def test_a_stage_declares_all_code_that_it_imports_and_none_that_it_does_not(stage) -> None:  # type: ignore[no-untyped-def]
    kind = stage.name.split("@")[0]
    declared = code_of(d.def_path for d in stage.deps)
    entry = re.match(r"python -m ([\w.]+)", stage.cmd)[1].replace(".", "/") + ".py"  # type: ignore[index]
    by_name = {
        d
        for d in declared
        if re.match(r"pipeline/(sources|encoders|decoders|metrics)(/\w+\.py)?$", d)
    }
    used = closure([entry, *python_files(by_name)], kind)
    assert {file for file in used if not any(covers(d, file) for d in declared)} == set()
    for_files_named_in_params = {
        "pipeline/decoders/shared",
        "pipeline/encoders/shared",
        "pipeline/sources/shared",
    }
    assert {
        d for d in declared - for_files_named_in_params if not any(covers(d, file) for file in used)
    } == set()


@pytest.mark.parametrize(("kind", "stage"), REGISTRIES)
def test_what_any_file_of_a_registry_imports_is_declared(kind: str, stage: str) -> None:
    """Tests all files of a registry, because the committed params.yaml names only a few."""
    row = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["do"]
    for name in registry.names(kind):
        declared = code_of(
            dep.replace(f"${{item.{kind.removesuffix('s')}}}", name) for dep in row["deps"]
        )
        used = closure([f"stages/{stage}.py", f"pipeline/{kind}/{name}.py"], stage)
        assert {file for file in used if not any(covers(d, file) for d in declared)} == set(), name


def test_the_graph_is_short_and_every_output_can_be_restored() -> None:
    """DVC does not save a run to its run cache if an output is declared with `persist`, or if a
    plain output is not cached (dvc/stage/cache.py)."""
    text = (ROOT / "dvc.yaml").read_text()
    assert len(text.splitlines()) <= 250
    assert "persist" not in text
    rows = yaml.safe_load(text)["stages"]
    uncached = {
        name
        for name, row in rows.items()
        for out in row.get("do", row).get("outs", [])
        if isinstance(out, dict)
    }
    assert uncached == {"track", "publish"}


OF_MERGE = ["caption@merge", "compare", "publish", "score@merge", "track@merge", "train@merge"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny workspace after its first `dvc repro`. No other test file works in it."""
    return computed(tmp_path_factory)


@pytest.fixture
def edited(finished: Path) -> Iterator[Callable[..., list[str]]]:
    """A function that appends a line to code files and returns the stages that DVC then runs. The
    files are restored afterwards."""
    before: dict[Path, bytes] = {}

    def edit(*files: str) -> list[str]:
        for path in [finished / file for file in files]:
            before.setdefault(path, path.read_bytes())
            with path.open("a") as code:
                code.write("\nEDITED = True\n")
        return repro(finished)

    yield edit
    for path, content in before.items():
        path.write_bytes(content)


def test_a_second_repro_runs_nothing_and_every_output_is_there(finished: Path) -> None:
    started = time.monotonic()
    assert repro(finished) == []
    print(f"no-op dvc repro: {time.monotonic() - started:.1f} s")
    for file in [
        "reports/index.html",
        "reports/tables/all.md",
        "reports/tables/all.csv",
        "mlflow.db",
    ]:
        assert (finished / file).stat().st_size > 0
    table = (finished / "reports/tables/all.md").read_text()
    assert all(name in table for name in ["merge", "lstm", "soft-attention", "most frequent"])


@pytest.mark.slow
def test_a_forced_run_leaves_the_lock_file_byte_for_byte_the_same(finished: Path) -> None:
    """Covers one stage of each kind that computes. The variant lstm has two seeds."""
    before = (finished / "dvc.lock").read_bytes()
    forced = repro(finished, "-f", "score@lstm") + repro(
        finished, "-f", "-s", "baseline@scenes", "compare"
    )
    kinds = {"download", "clean", "references", "extract", "train", "caption", "score"}
    assert {name.split("@")[0] for name in forced} == kinds | {"baseline", "compare"}
    assert (finished / "dvc.lock").read_bytes() == before


@pytest.mark.slow
def test_a_changed_value_reruns_what_it_touches_and_the_old_value_computes_nothing(
    finished: Path,
) -> None:
    lock, params = (finished / "dvc.lock").read_bytes(), tiny_params()
    params["variants"]["merge"]["train"] = {"lr": 0.002}
    write_params(finished, params)
    assert repro(finished) == OF_MERGE
    assert (finished / "dvc.lock").read_bytes() != lock
    write_params(finished, tiny_params())
    # Only MLflow and reports/ are updated; nothing is computed.
    assert set(repro(finished)) <= {"track@merge", "publish"}
    assert (finished / "dvc.lock").read_bytes() == lock


@pytest.mark.slow
def test_after_its_decoding_nothing_is_trained_again(finished: Path) -> None:
    params = yaml.safe_load((finished / "params.yaml").read_text())
    params["variants"]["lstm"]["decode"] = {"beam": 1, "alternatives": 1}
    write_params(finished, params)
    assert repro(finished) == ["caption@lstm", "compare", "publish", "score@lstm", "track@lstm"]


def test_after_an_edit_of_a_message_a_progress_bar_or_a_path_nothing_runs(edited) -> None:  # type: ignore[no-untyped-def]
    names = ("errors.py", "progress.py", "paths.py", "machine.py")
    assert edited(*(f"pipeline/core/{name}" for name in names)) == []


def test_after_an_edit_of_the_extraction_loop_equal_features_train_nothing(edited) -> None:  # type: ignore[no-untyped-def]
    assert edited("pipeline/extraction/extract.py") == ["extract@scenes-lite0"]


def test_after_an_edit_of_a_tables_layout_only_compare_runs(edited) -> None:  # type: ignore[no-untyped-def]
    assert edited("pipeline/report/table.py") == ["compare"]


def test_after_an_edit_of_a_decoders_file_only_its_variants_run(edited) -> None:  # type: ignore[no-untyped-def]
    ran = set(edited("pipeline/decoders/merge.py"))
    assert {"train@merge"} <= ran <= {"train@merge", "caption@merge", "track@merge"}


def test_what_was_computed_before_an_edit_is_restored(finished: Path) -> None:
    """The files are as before the edit, so only MLflow is updated and nothing is computed."""
    assert set(repro(finished)) <= {"track@merge"}


def test_a_second_seed_is_another_training_of_the_same_row(finished: Path) -> None:
    first, second = (
        digest(finished / folder / "model.safetensors")
        for folder in ("models/lstm", "data/seeds/lstm/2")
    )
    assert first != second
    assert read_json(finished / "data/seeds/merge/seeds.json") == []
    scores = ScoreTable.read(finished / "data/scores/lstm/scores.csv")
    mean = scores.get(Key("test", "standard", MEAN, "loss"))
    first, second = (scores.value("test", "loss", seed=seed) for seed in (OWN, "2"))
    assert mean.value == (first + second) / 2  # type: ignore[union-attr, operator]
    assert first != second
    with (finished / "reports/tables/all.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert (rows["lstm"]["seeds"], rows["merge"]["seeds"]) == ("2", "1")
    assert float(rows["lstm"]["test loss"]) == round(mean.value, 6)  # type: ignore[union-attr]
    assert float(rows["lstm"]["test loss_sd"]) == round(mean.sd, 6)  # type: ignore[union-attr, arg-type]


def test_a_mistake_in_the_params_costs_no_finished_output(finished: Path) -> None:
    """DVC removes a stage's outputs before it runs the stage. The model stays in the cache, and the
    message says how to restore it."""
    good, model = (
        (finished / "params.yaml").read_text(),
        finished / "models/merge/model.safetensors",
    )
    before = digest(model)
    params = yaml.safe_load(good)
    params["variants"]["merge"]["args"]["hiden"] = 8
    write_params(finished, params)
    done = run(finished, tool("dvc"), "repro", check=False)
    (finished / "params.yaml").write_text(good)
    said = done.stderr + done.stdout
    assert done.returncode != 0
    assert "variants.merge.args: unknown argument 'hiden' (did you mean 'hidden'?)" in said
    assert "dvc checkout" in said
    run(finished, tool("dvc"), "checkout", "train@merge")
    assert digest(model) == before
    assert repro(finished) == []


def test_comments_in_the_params_run_nothing(finished: Path) -> None:
    file = finished / "params.yaml"
    file.write_text("# a comment\n" + file.read_text().replace("variants:", "variants:  # another"))
    assert repro(finished) == []


def test_dvc_users_find_metrics_plots_and_the_graph(finished: Path) -> None:
    metrics = run(finished, tool("dvc"), "metrics", "show", "--md").stdout
    assert "test.cider" in metrics
    assert "data/metrics/merge.json" in metrics
    assert len(metrics.splitlines()[0].split("|")) <= 12  # Few enough columns to read.
    run(finished, tool("dvc"), "plots", "show", "-o", "plots_html")
    plots = (finished / "plots_html/index.html").read_text()
    assert "val_cider" in plots
    assert '"variant": "merge", "split": "test", "metric": "cider"' in plots
    assert "train@merge" in run(finished, tool("dvc"), "dag").stdout


def test_the_tracking_server_alone_gives_the_same_tables_byte_for_byte(finished: Path) -> None:
    elsewhere = f"sqlite:///{finished / 'mlflow.db'}"
    command = [sys.executable, "-m", "captionlab", "tables", "--from-mlflow", "--to", "again"]
    away = finished.parent / "nothing here"
    away.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=away,
        env=environment(finished, MLFLOW_TRACKING_URI=elsewhere),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = {file.name: file.read_bytes() for file in (finished / "reports/tables").iterdir()}
    assert {file.name: file.read_bytes() for file in (away / "again").iterdir()} == made
    assert {name.split(".")[-1] for name in made} == {"md", "csv", "tex"}


def test_a_clone_without_a_remote_gets_a_clear_word(finished: Path) -> None:
    done = run(finished, tool("dvc"), "push", check=False)
    assert done.returncode != 0
    assert "no remote" in done.stderr.lower()


def test_an_unknown_name_lists_the_names_there_are(finished: Path) -> None:
    done = stage(finished, "train", "mrege", check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: 'mrege' is not in variants of params.yaml (did you mean 'merge'?): there are "
        "merge, lstm, soft-attention\n"
    )
