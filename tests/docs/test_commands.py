"""Every command in a code block is valid: the program's own parser accepts it."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from captionlab.__main__ import app
from pipeline.core.environment import VARIABLES
from tests.docs.pages import PAGES, Block, all_blocks, commands, saved_files, spans
from tests.workspace import ROOT

CLI: Any = typer.main.get_command(app)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# The files that the pages tell the reader to write.
WRITTEN = {path for page in PAGES for path in saved_files(page)}


def captionlab(words: list[str]) -> None:
    """Parse a command without running it. An unknown command or option, a wrong type or a wrong
    number of arguments raises an error."""
    command = CLI.commands[words[0]]
    command.make_context(words[0], list(words[1:]))


def make(words: list[str]) -> None:
    assert set(words) <= TARGETS


def dvc(words: list[str]) -> None:
    from dvc.cli import parse_args

    parse_args(words)
    for word in words:
        stage, _, row = word.partition("@")
        if row and "/" not in word:
            assert stage in STAGES
            assert "foreach" in STAGES[stage]


def mlflow(words: list[str]) -> None:
    import click
    from mlflow.cli import cli

    command: Any = cli
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    command.make_context("mlflow", words)


def python(words: list[str]) -> None:
    assert words[:2] == ["-m", "pytest"]
    assert (ROOT / words[2]).exists()


def cp(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()


def export(words: list[str]) -> None:
    known = {"RAY_AUTH_MODE", *(variable.name for variable in VARIABLES)}
    assert {word.split("=")[0] for word in words} <= known


def source(words: list[str]) -> None:
    assert words == [".venv/bin/activate"]


def curl(words: list[str]) -> None:
    """Check that the request goes to the default address of `captionlab serve`."""
    defaults = {parameter.name: parameter.default for parameter in CLI.commands["serve"].params}
    assert f"{defaults['host']}:{defaults['port']}/invocations" in words


def ray(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    cli.commands[words[0]].make_context(words[0], words[1:])


PARSERS: dict[str, Callable[[list[str]], None]] = {
    f.__name__: f for f in (captionlab, make, dvc, mlflow, python, cp, export, source, curl, ray)
}


@pytest.mark.parametrize("block", all_blocks("bash"), ids=lambda block: block.name)
def test_a_shell_block_holds_commands_that_there_are(block: Block) -> None:
    for words in commands(block.text):
        assert words[0] in PARSERS, f"{words[0]}: tell this test how to check it"
        PARSERS[words[0]](words[1:])


@pytest.mark.parametrize("block", all_blocks("sh"), ids=lambda block: block.name)
def test_a_script_of_another_scheduler_calls_commands_that_there_are(block: Block) -> None:
    called = re.findall(r"\b(captionlab|ray) ([a-z-]+ [^\n'&>]*)", block.text)
    assert called
    for program, rest in called:
        PARSERS[program](shlex.split(rest, comments=True))


def test_a_command_with_a_wrong_option_would_be_found() -> None:
    with pytest.raises(Exception, match="--beems"):
        captionlab(["caption", "photo.jpg", "--beems", "3"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_running_text_names_commands_and_variables_that_there_are(page: Path) -> None:
    text = page.read_text()
    names = {variable.name for variable in VARIABLES}
    assert set(re.findall(r"\bCAPTIONLAB_[A-Z0-9_]+\b", text)) <= names
    for span in spans(page):
        words = span.split()
        if words[0] == "captionlab" and len(words) > 1:
            assert words[1] in {*CLI.commands, "COMMAND"}, span
            options = {o for p in CLI.commands[words[1]].params for o in p.opts}
            assert {w for w in words if w.startswith("--")} <= options, span
        if words[0] == "make" and len(words) == 2:
            assert words[1] in TARGETS, span


FOLDERS = "pipeline|stages|captionlab|tests|docs|experiments|benchmarks|requirements|reports"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_running_text_names_files_that_there_are(page: Path) -> None:
    """Names in capitals stand for the names of the reader's rows."""
    for span in spans(page):
        path = span.split("#")[0].rstrip("/")
        is_path = re.fullmatch(rf"({FOLDERS})/[\w./*-]+", path)
        if is_path and not re.search(r"\b[A-Z]{2,}\b", path) and path not in WRITTEN:
            assert list(ROOT.glob(path)) or made(path), f"{page.name}: {span}"


def made(path: str) -> bool:
    """Return whether a path is a part of the report, which `dvc repro` writes."""
    from pipeline.core import paths

    return path.startswith(tuple(f"reports/{name}" for name in (*paths.PUBLISHED_REPORT, "runs")))


def test_the_experiments_that_pages_name_are_files() -> None:
    there = {path.name for path in (ROOT / "experiments").glob("*.yaml")}
    page = ROOT / "docs/howto/reproduce-a-paper.md"
    named = {span for span in spans(page) if re.fullmatch(r"[a-z0-9-]+\.yaml", span)}
    assert named - {"params.yaml"} == there
