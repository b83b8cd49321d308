"""An impossible value in params.yaml gives an error of one line.

`captionlab plan` and every stage read this file. The check before a constructor gives the same
line.
"""

import ast
import math
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import yaml

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.core.ranges import Form, Keys, Lora, Range, Width
from pipeline.experiment.params import Variant, load_params
from tests.workspace import ROOT

NAN, INFINITE, HUGE = math.nan, math.inf, 2**64
ARGUMENTS = [
    ("decoders", "merge", {"embedding": 0}),
    ("decoders", "merge", {"embedding": -1}),
    ("decoders", "merge", {"embedding": HUGE}),
    ("decoders", "merge", {"embedding": True}),
    ("decoders", "merge", {"hidden": 0}),
    ("decoders", "merge", {"hidden": 10**12}),
    ("decoders", "merge", {"dropout": 1.5}),
    ("decoders", "merge", {"dropout": 1.0}),
    ("decoders", "merge", {"dropout": -0.1}),
    ("decoders", "merge", {"dropout": NAN}),
    ("decoders", "lstm", {"layers": 0}),
    ("decoders", "lstm", {"layers": -1}),
    ("decoders", "lstm", {"dropout": INFINITE}),
    ("decoders", "soft_attention", {"attention": 0}),
    ("decoders", "soft_attention", {"stochastic": -1.0}),
    ("decoders", "soft_attention", {"stochastic": NAN}),
    ("decoders", "hard_attention", {"reinforce": 1e308}),
    ("decoders", "hard_attention", {"entropy": -0.1}),
    ("decoders", "hard_attention", {"expected": 1.1}),
    ("decoders", "transformer", {"heads": 7}),
    ("decoders", "transformer", {"heads": 0}),
    ("decoders", "transformer", {"width": 12}),
    ("decoders", "transformer", {"width": 7, "heads": 7}),
    ("decoders", "transformer", {"width": 0}),
    ("decoders", "transformer", {"layers": -1}),
    ("decoders", "transformer", {"feedforward": 0}),
    ("decoders", "prefix_lm", {"prefix": 0}),
    ("decoders", "prefix_lm", {"prefix": HUGE}),
    ("decoders", "prefix_lm", {"clip_length": 0}),
    ("decoders", "prefix_lm", {"mapping_layers": 0}),
    ("decoders", "prefix_lm", {"mapping_heads": 0}),
    ("decoders", "prefix_lm", {"new_tokenizer": -1}),
    ("decoders", "blind", {"labels": 0}),
    ("decoders", "blind", {"synonyms": 1.5}),
    ("decoders", "blind", {"scale": 0.0}),
    ("decoders", "blind", {"share": NAN}),
    ("decoders", "blind", {"longest_prompt": 0}),
    ("encoders", "timm_model", {"image_size": 0}),
    ("encoders", "timm_model", {"image_size": HUGE}),
    ("encoders", "timm_model", {"grid": -1}),
    ("encoders", "timm_model", {"drop_path": NAN}),
    ("encoders", "pixels", {"image_size": -5}),
    ("sources", "scenes", {"images": 0}),
    ("sources", "scenes", {"size": 10**6}),
    ("sources", "scenes", {"seed": HUGE}),
    ("sources", "scenes", {"seed": -1}),
    ("sources", "folder", {"val": NAN}),
    ("sources", "folder", {"test": 1.5}),
    ("sources", "webdataset", {"val": -0.1}),
    ("sources", "webdataset", {"seed": HUGE}),
    ("sources", "coco2014", {"max_images": 0}),
]
NEEDED: dict[str, dict[str, Any]] = {
    "timm_model": {"model": "m", "weights": "random", "image_size": 32},
    "pixels": {"image_size": 8},
    "scenes": {"images": 16, "size": 64, "seed": 1},
    "folder": {"path": "pictures"},
    "webdataset": {"path": "shards"},
    "hugging_face": {"name": "owner/pictures"},
}
SETTINGS = [
    ("train", {"seeds": [HUGE]}),
    ("train", {"seeds": [2**63]}),
    ("train", {"seeds": [-1]}),
    ("train", {"seeds": []}),
    ("train", {"epochs": -1}),
    ("train", {"epochs": HUGE}),
    ("train", {"batch_images": 0}),
    ("train", {"lr": 0.0}),
    ("train", {"lr": NAN}),
    ("train", {"lr": 1e308}),
    ("train", {"weight_decay": -0.1}),
    ("train", {"momentum": 1.5}),
    ("train", {"plateau_factor": NAN}),
    ("train", {"clip_at": 0.0}),
    ("train", {"clip_at": INFINITE}),
    ("train", {"label_smoothing": 1.01}),
    ("train", {"sampling_k": 0.0}),
    ("train", {"self_critical_samples": 0}),
    ("train", {"patience": 0}),
    ("decode", {"beam": 0}),
    ("decode", {"beam": 10**6}),
    ("decode", {"max_tokens": HUGE}),
    ("decode", {"max_tokens": 0}),
    ("decode", {"length_penalty": 1e308}),
    ("decode", {"length_penalty": -0.5}),
    ("decode", {"length_penalty": NAN}),
    ("decode", {"temperature": 0.0}),
    ("decode", {"temperature": INFINITE}),
    ("decode", {"samples": 10**6}),
    ("decode", {"top_k": -1}),
    ("decode", {"seed": HUGE}),
    ("decode", {"alternatives": 0}),
    ("decode", {"also": ["beam-0"]}),
    ("decode", {"also": ["beam-1000000"]}),
]


@pytest.fixture
def data() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    return loaded


@pytest.mark.parametrize(("kind", "name", "args"), ARGUMENTS, ids=str)
def test_an_impossible_argument_is_one_line_from_plan_and_from_the_constructor(
    tmp_path, data, kind, name, args, captionlab, monkeypatch
) -> None:
    args = {**NEEDED.get(name, {}), **args}
    row = {"sources": "datasets", "encoders": "features", "decoders": "variants"}[kind]
    key = next(iter(data[row]))
    data[row][key] |= {kind.removesuffix("s"): name, "args": args}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.chdir(tmp_path)
    status, out, err = captionlab("plan")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    target = registry.load(kind, name)
    for part in registry.ENTRIES[kind]:
        target = getattr(target, part)
    with pytest.raises(UserError) as error:
        registry.check_args(target, args, f"{row}.{key}.args")
    assert f"params.yaml: {error.value}" in err


@pytest.mark.parametrize(("section", "values"), SETTINGS, ids=str)
@pytest.mark.parametrize("where", ["top", "variant"])
def test_an_impossible_setting_is_one_line_that_names_its_key(
    tmp_path, data, section, values, where
) -> None:
    row = data if where == "top" else data["variants"]["merge"]
    row[section] |= values
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as error:
        load_params(file)
    prefix = "" if where == "top" else "variants.merge."
    message = str(error.value).removeprefix(f"{file}: ")
    assert message.startswith(f"{prefix}{section}.{next(iter(values))}")
    assert "\n" not in message


@pytest.mark.parametrize("kind", registry.ENTRIES)
def test_every_default_lies_in_its_own_range(kind) -> None:
    for name in registry.names(kind):
        signature = registry.signature(kind, name)
        assert signature, name
        given = NEEDED.get(name, {"model": "m"} if "model" in signature.parameters else {})
        known = signature.parameters.values()
        defaults = {p.name: p.default for p in known if p.default is not p.empty}
        registry.check_args(signature, {**defaults, **given}, name)


def unbounded(annotation: Any) -> bool:
    """Return whether a type allows a number that no range bounds."""
    if hasattr(annotation, "__metadata__"):
        rules = annotation.__metadata__
        keys = [kind for rule in rules if isinstance(rule, Keys) for kind in rule.types.values()]
        return any(map(unbounded, keys)) or (
            unbounded(annotation.__origin__) and not any(isinstance(rule, Range) for rule in rules)
        )
    if get_origin(annotation) is Literal:
        return False
    return annotation in (int, float) or any(map(unbounded, get_args(annotation)))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, True),
        (float | None, True),
        (list[int], True),
        (list[str] | int, True),
        (Annotated[float, Form("x", "a form")], True),
        (Annotated[dict[str, Any], Keys({"rank": int})], True),
        (bool, False),
        (Literal[1, 2], False),
        (Width | None, False),
        (list[Width], False),
        (Lora | None, False),
        (str | list[str], False),
    ],
    ids=str,
)
def test_a_number_without_a_range_is_found_anywhere_in_a_type(annotation, expected) -> None:
    assert unbounded(annotation) == expected


@pytest.mark.parametrize("kind", registry.ENTRIES)
def test_every_number_among_the_arguments_has_a_range(kind) -> None:
    without = [
        f"{kind}/{name}.py: {parameter.name}: {parameter.annotation}"
        for name in registry.names(kind)
        for parameter in registry.signature(kind, name).parameters.values()
        if unbounded(parameter.annotation)
    ]
    assert without == []


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.yaml")), ids=str)
def test_every_committed_experiment_lies_in_the_ranges(file) -> None:
    assert all(isinstance(row, Variant) for row in load_params(file).variants.values())


@pytest.mark.parametrize(
    "annotation", ["Path", "dict[str, int]", "print('x')", "Literal", "Annotated[int, 3]", "x.y"]
)
def test_an_annotation_that_is_not_known_here_is_an_error_and_is_not_evaluated(annotation) -> None:
    node = ast.parse(annotation, mode="eval").body
    with pytest.raises(TypeError, match=r"use Literal, list, \| or one of int, float, str, bool, "):
        registry._type(node)
