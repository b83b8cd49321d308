"""Yaml12 reads what DVC's own reader (ruamel.yaml) reads, and refuses what that reader refuses."""

from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from pipeline.core.errors import UserError
from pipeline.core.yaml12 import Yaml12
from pipeline.experiment.params import read_params_file
from tests.workspace import ROOT

SCALARS = [
    "1",
    "0",
    "-3",
    "+4",
    "010",
    "-010",
    "0x1F",
    "0o17",
    "0b11",
    "1_000",
    "1.5",
    "-1.",
    ".5",
    "1e-3",
    "1e3",
    "1.5E+3",
    "2e0",
    "1_0.5",
    ".inf",
    "-.inf",
    "+.inf",
    "true",
    "False",
    "TRUE",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "null",
    "Null",
    "~",
    "12:30",
    "1:2:3",
    "2026-01-01",
    "1e",
    "0x",
    "1.2.3",
    "v1",
    "<<x",
    "''",
    "'1'",
    '"true"',
    "[]",
    "{}",
    "1e-3x",
    ".e3",
    "+.5",
    "e3",
    "08",
    "0o8",
]


@pytest.mark.parametrize("pure", [True, False], ids=["in Python", "in C"])
@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_is_what_dvc_takes_it_for(text: str, pure: bool) -> None:
    """DVC reads with C code where ruamel.yaml.clib is installed. That reader takes no bare colons
    in lists."""
    in_a_list = f"b: [{text}, 1]\n" if pure or ":" not in text else ""
    document = f"a: {text}\n{in_a_list}"
    theirs, ours = YAML(typ="safe", pure=pure).load(document), yaml.load(document, Yaml12)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_committed_experiment_is_read_as_dvc_reads_it(file: Path) -> None:
    assert read_params_file(file) == YAML(typ="safe", pure=True).load(file.read_text())


def test_anchors_and_merged_mappings_are_those_of_dvc() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n"
    expected = {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}
    assert yaml.load(text, Yaml12) == expected == YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train:\n  lr: 1\n  epochs: 2\n  lr: 3\n", "line 4: the key 'lr' occurs twice"),
        ("train: {1: a, 1: b}\n", "line 1: the key '1' occurs twice"),
        ("a: 1\n b: 2\n", "line 2: mapping values are not allowed in this context"),
    ],
)
def test_a_mistake_is_one_line_with_its_number(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_params_file(file)
    assert str(error.value) == f"{file} is not valid YAML: {problem}"
