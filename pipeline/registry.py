"""The module name is the registry: `pipeline/decoders/lstm.py` is the decoder `lstm`. Adding one is adding a file."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import UserError

HELPERS = {"__init__", "base"}


def names(kind: str) -> list[str]:
    """The modules of `pipeline/<kind>/` that can be named in params.yaml."""
    folder = Path(__file__).parent / kind
    return sorted(p.stem for p in folder.glob("*.py") if p.stem not in HELPERS and not p.stem.startswith("_"))


def find(kind: str, name: str) -> str:
    """The module's full name, nothing imported.

    Raises:
        UserError: there is no such module; the message lists those there are.
    """
    known = names(kind)
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"unknown {kind.removesuffix('s')} '{name}'{hint}: there are {', '.join(known)}")
    return f"pipeline.{kind}.{name}"


def load(kind: str, name: str) -> ModuleType:
    """Import `pipeline.<kind>.<name>`; errors as in `find`."""
    return import_module(find(kind, name))


def check_args(target: Callable[..., Any], args: dict[str, Any], where: str) -> None:
    """Check `args` against the keyword-only parameters of `target`, which are what params.yaml may set.

    Raises:
        UserError: an unknown or missing argument, or a value of the wrong type.
    """
    allowed = {n: p for n, p in inspect.signature(target).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name, value in args.items():
        if name not in allowed:
            near = get_close_matches(name, allowed, 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise UserError(f"{where}: unknown argument '{name}'{hint}; it takes {', '.join(sorted(allowed)) or 'none'}")
        _check_type(allowed[name].annotation, value, f"{where}.{name}")
    missing = [n for n, p in allowed.items() if p.default is p.empty and n not in args]
    if missing:
        raise UserError(f"{where}: '{missing[0]}' must be given")


def _check_type(annotation: Any, value: Any, where: str) -> None:
    if annotation is inspect.Parameter.empty:
        return
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Input ")
        raise UserError(f"{where}: {problem}, not {value!r}") from None
