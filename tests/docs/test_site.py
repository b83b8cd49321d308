"""The site builds with `--strict` from the current code, and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.environment import VARIABLES
from pipeline.core.registry import names
from tests.docs.pages import PAGES
from tests.workspace import ROOT

sys.path.insert(0, str(ROOT / "docs/hooks"))

import drawings
import reference_pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loading = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*>"
        r"|<link\b[^>]*(?:stylesheet|preconnect|icon|preload)[^>]*href=[\"']?(?:https?:)?//[^>]*>"
        r"|@import [^;]*//[^;]*|url\([\"']?(?:https?:)?//[^)]*\)"
    )
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert loading.findall(path.read_text()) == [], path.name


def test_the_reference_names_every_part_command_and_variable(site: Path) -> None:
    from captionlab.__main__ import app

    for kind in ("decoders", "encoders", "sources", "metrics"):
        page = (site / f"reference/{kind}.html").read_text()
        assert {n for n in names(kind) if f'<h2 id="{n}">' not in page} == set()
    commands = (site / "reference/commands.html").read_text()
    for command in app.registered_commands:
        assert f">captionlab {command.name}<" in commands
    environment = (site / "reference/environment.html").read_text()
    assert all(variable.name in environment for variable in VARIABLES)


def test_every_mark_on_a_page_is_filled(site: Path) -> None:
    assert [p.name for p in site.rglob("*.html") if "<!-- generate" in p.read_text()] == []


def test_special_tokens_are_text_and_no_html(site: Path) -> None:
    assert "&lt;end&gt; and &lt;unk&gt;" in (site / "explanation/protocols.html").read_text()


def test_every_key_of_params_yaml_has_a_sentence() -> None:
    from pipeline.experiment import params

    told = reference_pages.attribute_texts(ROOT / "pipeline/experiment/params.py")
    for _, model in reference_pages.sections(params):
        for field in model.model_fields:
            assert told[model.__name__][1].get(field, "").endswith("."), (model.__name__, field)


def test_types_are_told_in_words() -> None:
    from pipeline.experiment.params import Training

    fields = Training.model_json_schema()["properties"]
    told = {name: reference_pages._type(fields[name]) for name in ("epochs", "lr", "momentum")}
    assert told == {
        "epochs": "whole number, 0 or more",
        "lr": "number, above 0, at most 100",
        "momentum": "number, 0 to 1",
    }


def test_the_arrows_of_the_graph_are_those_of_the_data() -> None:
    stages: dict[str, Any] = {
        "draw": {"foreach": "${a}", "do": {"deps": [], "outs": ["data/raw/${key}"]}},
        "clean": {"foreach": "${b}", "do": {"deps": ["data/raw/${item.a}"], "outs": ["data/c/${key}"]}},
        "table": {"deps": ["data/c", "data/raw"], "outs": [{"reports": {"cache": False}}]},
    }  # fmt: skip
    assert drawings.reads(stages) == {"draw": set(), "clean": {"draw"}, "table": {"clean", "draw"}}
    assert drawings.reduced(drawings.reads(stages))["table"] == {"clean"}


def test_the_architecture_page_describes_every_room() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    described = set(re.findall(r"^\| (\w+) \| ", page, re.MULTILINE)) - {"room"}
    rooms = {room for floor in reference_pages.layers(ROOT) for room in floor}
    assert described == rooms - {"stages", "captionlab"}


def test_every_decision_has_a_status_and_a_room() -> None:
    rooms = {room for floor in reference_pages.layers(ROOT) for room in floor}
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        head = path.read_text().split("\n\n")[1]
        assert re.fullmatch(
            r"Status: (holds|superseded by \[[^]]+\]\([\w-]+\.md\))  \nDate: [\d-]+  \nRoom: .+",
            head,
        ), path.name
        assert head.split("Room: ")[1] in rooms | {"the graph", "benchmarks"}, path.name
        assert path.name.startswith(re.findall(r"Date: ([\d-]+)", head)[0])


def test_every_environment_variable_of_the_code_is_in_the_table_and_the_other_way_round() -> None:
    files = [p for f in ("pipeline", "captionlab", "stages") for p in (ROOT / f).rglob("*.py")]
    code = "\n".join(p.read_text() for p in files if p.name != "environment.py")
    named = set(re.findall(r"\b(?:CAPTIONLAB_[A-Z0-9_]+|MLFLOW_TRACKING_URI)\b", code))
    assert named == {variable.name for variable in VARIABLES}
    of_sources = {f"CAPTIONLAB_{n.upper()}" for n in names("sources") if takes_archives(n)}
    assert of_sources <= named


def takes_archives(source: str) -> bool:
    return "archives: str" in (ROOT / f"pipeline/sources/{source}.py").read_text()


def test_the_readme_is_one_screen_or_two() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_links_of_pages_outside_the_site_lead_somewhere() -> None:
    for page in PAGES[:2]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (ROOT / link).exists(), f"{page.name}: {link}"
