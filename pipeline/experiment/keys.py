"""Reads params.yaml, reports what is wrong with each key and value by itself, and keeps the valid
part of a file with errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.core import plain
from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.core.yaml12 import read_yaml

# Key -> a value that changes nothing.
NEUTRAL = dict.fromkeys(("args", "train", "decode"), "{}") | {
    "protocols": "[]",
    "also": "[]",
    "clip": "null",
    "language": "en",
    "instances": "[]",
    "keep": "both",
    "micro_batch": "0",
}
Model = TypeVar("Model", bound=BaseModel)


def read_params_file(path: Path = Path("params.yaml")) -> Any:
    """Return the file as DVC reads it: unchecked, without derived values.

    Raises:
        UserError: the file is missing, or is not YAML.
    """
    try:
        return read_yaml(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there: copy one from experiments/, e.g. cp "
            "experiments/quickstart.yaml params.yaml"
        ) from None


def problems_of(model: type[BaseModel], data: Any, prefix: str = "") -> list[str]:
    """Return what is wrong with a section, key by key."""
    return [_told(problem, model, prefix) for problem in _problems(model, data)]


def overrides(model: type[BaseModel], data: Any, own: Any, prefix: str) -> list[str]:
    """Return what is wrong with the keys by which a row overrides a section.

    What is wrong with the section itself is reported for the section.
    """
    if not isinstance(own, Mapping):
        return []
    whole = {**(data if isinstance(data, Mapping) else {}), **own}
    found = (problem for problem in _problems(model, whole) if problem.place[0] in own)
    return [_told(problem, model, prefix) for problem in found]


def _problems(model: type[BaseModel], data: Any) -> list[plain.Problem]:
    try:
        model.model_validate(data, strict=True)
    except ValidationError as error:
        return plain.problems(error, data)
    return []


def _told(problem: plain.Problem, model: type[BaseModel], prefix: str) -> str:
    told = problem.told(prefix)
    if problem.kind == "missing":
        return told + _neutral(problem.place)
    if problem.kind == "extra_forbidden":
        return told + nearest(problem.place[-1], _keys(model, problem.place[:-1]))
    return told


def _neutral(place: tuple[str | int, ...]) -> str:
    """Return what to write for a missing key of a row that does not need it, or ''.

    Such a key has no default: dvc.yaml names it, and DVC runs no stage that lacks a key of its own.
    """
    key = str(place[-1])
    value = NEUTRAL.get(key) if len(place) > 1 else None  # the top-level `train` has none
    return f", write {key}: {value}" if value else ""


def _keys(kind: Any, place: tuple[str | int, ...]) -> list[str]:
    """Return the keys that are allowed at a place."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
        return _keys(fields[str(place[0])].annotation, place[1:]) if place else list(fields)
    inside = [each for each in get_args(kind) if each is not type(None)]
    rest = place[1:] if len(inside) > 1 else place  # dict[name, row], or a row or None
    return _keys(inside[-1], rest) if inside else []


def what_is_right(model: type[Model], data: Any) -> Model:
    """Return a section with None for each value that is missing or wrong.

    One message can then report both its unknown names and its wrong keys.
    """
    there = data if isinstance(data, Mapping) else {}
    values = {
        name: _value(field.rebuild_annotation(), there.get(name))
        for name, field in model.model_fields.items()
    }
    return model.model_construct(**values)


def _value(kind: Any, data: Any) -> Any:
    inside = get_args(kind)[-1:]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return what_is_right(kind, data)
    if inside and isinstance(data, Mapping) and _is_section(inside[0]):
        return {name: what_is_right(inside[0], row) for name, row in data.items()}
    try:
        return TypeAdapter(kind).validate_python(data, strict=True)
    except ValidationError:
        return None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
