"""The graph as DVC runs it: what is declared is what is imported, and a change reruns exactly what it touches."""

import ast
import csv
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from pipeline.core import registry
from pipeline.data.files import digest, read_json
from tests.workspace import ROOT, environment, make_workspace, repro, run, stage, tiny_params, tool, write_params

# params.py only parses: the values that a stage reads are its `params`. The live curves of MLflow are no output, so
# tracking cannot change what `train` makes.
NOT_DECLARED = {"pipeline/experiment/params.py"}
SIDE_CHANNEL = {"train": re.compile(r"pipeline/tracking\w*\.py")}
# MLflow's models-from-code takes a path. What that file imports, the served process imports: it goes along as code, whole.
BY_PATH = {"track": {"pipeline/tracking/pyfunc.py"}}


def local_imports(file: str) -> Iterable[str]:
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        yield from (p for p in (name.replace(".", "/") + ".py" for name in names) if (ROOT / p).is_file())


def closure(files: Iterable[str], kind: str) -> set[str]:
    """All files reached by imports, those inside functions too; what is not declared is not followed."""
    side = SIDE_CHANNEL.get(kind, re.compile(r"(?!)"))
    seen: set[str] = set()
    queue = list(files)
    while queue:
        file = queue.pop()
        if file not in seen and file not in NOT_DECLARED and not side.fullmatch(file):
            seen.add(file)
            queue += local_imports(file)
    return seen


def shared(files: Iterable[str]) -> set[str]:
    """What stands for a folder's files to share: declared beside each, for a `foreach` cannot tell which of them it needs."""
    return {str(p.relative_to(ROOT)) for file in files for p in (ROOT / file).parent.glob("_[!_]*.py")}


def stages() -> list:  # type: ignore[type-arg]
    return [s for s in Repo(str(ROOT)).index.stages if s.cmd]


@pytest.mark.parametrize("stage", stages(), ids=lambda s: s.name)
def test_the_declared_code_is_the_import_closure(stage) -> None:  # type: ignore[no-untyped-def]
    kind = stage.name.split("@")[0]
    declared = {d.def_path for d in stage.deps}
    by_name = {d for d in declared if re.match(r"pipeline/(sources|encoders|decoders)/(?!base|_)\w+\.py", d)}
    held = [p for d in declared if d == "pipeline/metrics" for p in (ROOT / d).glob("*.py") if p.name != "__init__.py"]
    folders = {str(p.relative_to(ROOT)) for p in held}
    entry = re.match(r"python -m ([\w.]+)", stage.cmd)[1].replace(".", "/") + ".py"  # type: ignore[index]
    expected = closure([entry, *by_name, *folders], kind) | BY_PATH.get(kind, set()) | shared(by_name)
    assert {d for d in declared if d.endswith(".py")} | folders == expected


@pytest.mark.parametrize(
    ("kind", "stage"), [("sources", "download"), ("encoders", "extract"), ("decoders", "train"), ("decoders", "caption")]
)
def test_what_any_file_of_a_registry_imports_is_declared(kind: str, stage: str) -> None:
    """The committed params.yaml names a few of them."""
    row = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["do"]
    for name in registry.names(kind):
        declared = {dep.replace(f"${{item.{kind.removesuffix('s')}}}", name) for dep in row["deps"]}
        assert closure([f"stages/{stage}.py", f"pipeline/{kind}/{name}.py"], stage) <= declared, name


def test_modules_import_only_what_stands_above_them() -> None:
    order = re.search(r"## The library.*?\n\nerrors(.*?)\n\n", (ROOT / "docs/design.md").read_text(), re.S)
    assert order
    names = re.findall(r"[a-z_]+", "errors" + order[1])
    rank = {name: n for n, name in enumerate(names)}

    def place(file: str) -> int:
        return rank[Path(file).parts[1].removesuffix(".py")]

    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        if path.name != "__init__.py":
            for imported in local_imports(file):
                if not imported.endswith("__init__.py"):
                    assert place(imported) <= place(file), f"{file} imports {imported}, which stands below it"


def test_only_tracking_imports_mlflow_and_no_stage_imports_a_stage() -> None:
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        text, name = path.read_text(), path.name
        assert name.startswith("tracking") or not re.search(r"^\s*(import|from) mlflow", text, re.M), name
        assert not re.search(r"^\s*from stages|^\s*import stages", text, re.M), name


def test_only_stages_and_the_command_line_name_workspace_paths() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        if path.parent.name != "commands":
            assert not re.search(r"import layout\b|load_params\(\)", path.read_text()), path.name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny workspace after its first `dvc repro`."""
    folder = make_workspace(tmp_path_factory.mktemp("graph") / "work space")
    ran = repro(folder)
    assert len(ran) == 5 + 4 * 3 + 1
    return folder


def test_a_second_repro_runs_nothing_and_every_output_is_there(finished: Path) -> None:
    started = time.monotonic()
    assert repro(finished) == []
    print(f"no-op dvc repro: {time.monotonic() - started:.1f} s")
    for file in ["reports/index.html", "reports/tables/all.md", "reports/tables/all.csv", "mlflow.db"]:
        assert (finished / file).stat().st_size > 0
    table = (finished / "reports/tables/all.md").read_text()
    assert all(name in table for name in ["merge", "lstm", "soft-attention", "most frequent"])


def test_a_forced_run_leaves_the_lock_file_byte_for_byte_the_same(finished: Path) -> None:
    before = (finished / "dvc.lock").read_bytes()
    assert len(repro(finished, "-f")) == 18
    assert (finished / "dvc.lock").read_bytes() == before


def test_after_one_variants_learning_rate_only_its_stages_and_compare_run(finished: Path) -> None:
    params = tiny_params()
    params["variants"]["merge"]["train"] = {"lr": 0.002}
    write_params(finished, params)
    assert repro(finished) == ["caption@merge", "compare", "score@merge", "track@merge", "train@merge"]


def test_after_its_decoding_nothing_is_trained_again(finished: Path) -> None:
    params = yaml.safe_load((finished / "params.yaml").read_text())
    params["variants"]["lstm"]["decode"] = {"beam": 1, "alternatives": 1}
    write_params(finished, params)
    assert repro(finished) == ["caption@lstm", "compare", "score@lstm", "track@lstm"]


def test_after_an_edit_of_a_decoders_file_only_its_variants_run(finished: Path) -> None:
    with (finished / "pipeline/decoders/lstm.py").open("a") as file:
        file.write("\nEDITED = True\n")
    ran = set(repro(finished))
    assert {"train@lstm", "caption@lstm"} <= ran <= {"train@lstm", "caption@lstm", "score@lstm", "track@lstm", "compare"}


def test_after_an_edit_of_the_report_only_compare_runs(finished: Path) -> None:
    with (finished / "pipeline/report/page.py").open("a") as file:
        file.write("\nEDITED = True\n")
    assert repro(finished) == ["compare"]


def test_a_second_seed_is_another_training_of_the_same_row(finished: Path) -> None:
    first, second = (digest(finished / folder / "model.safetensors") for folder in ("models/lstm", "data/seeds/lstm/2"))
    assert first != second
    assert read_json(finished / "data/seeds/merge/seeds.json") == []
    scores = read_json(finished / "data/scores/lstm.json")["test"]
    assert scores["mean.loss"] == (scores["loss"] + scores["seed-2.loss"]) / 2
    assert scores["loss"] != scores["seed-2.loss"]
    with (finished / "reports/tables/all.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert (rows["lstm"]["seeds"], rows["merge"]["seeds"]) == ("2", "1")
    assert float(rows["lstm"]["test loss"]) == round(scores["mean.loss"], 6)
    assert float(rows["lstm"]["test loss_sd"]) == round(scores["sd.loss"], 6)


def test_a_mistake_in_the_params_costs_no_finished_output(finished: Path) -> None:
    """Told by the stage that reads it: DVC would have removed the old model before."""
    good = (finished / "params.yaml").read_text()
    params = yaml.safe_load(good)
    params["variants"]["merge"]["args"]["hiden"] = 8
    write_params(finished, params)
    done = run(finished, tool("dvc"), "repro", check=False)
    (finished / "params.yaml").write_text(good)
    assert done.returncode != 0
    assert "variants.merge.args: unknown argument 'hiden' (did you mean 'hidden'?)" in done.stderr + done.stdout
    assert (finished / "models/merge/model.safetensors").is_file()
    assert (finished / "data/history/merge.csv").is_file()
    assert repro(finished) == []


def test_comments_in_the_params_run_nothing(finished: Path) -> None:
    file = finished / "params.yaml"
    file.write_text("# a comment\n" + file.read_text().replace("variants:", "variants:  # another"))
    assert repro(finished) == []


def test_dvc_users_find_metrics_plots_and_the_graph(finished: Path) -> None:
    metrics = run(finished, tool("dvc"), "metrics", "show", "--md").stdout
    assert "test.cider" in metrics
    assert "data/metrics/merge.json" in metrics
    assert len(metrics.splitlines()[0].split("|")) <= 12  # few enough to read
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
    assert done.stderr == "error: 'mrege' is not in variants of params.yaml: there are merge, lstm, soft-attention\n"
