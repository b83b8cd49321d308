"""Registries of modules by file name: `pipeline/decoders/lstm.py` is the decoder `lstm`. To add
one, add a file."""

import ast
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

from pipeline.core import ranges
from pipeline.core.errors import UserError
from pipeline.core.plain import problems

# The folder pipeline/. Its folders `sources`, `encoders`, `decoders` and `metrics` are registries;
# code that their files share is in shared/.
ROOMS = Path(__file__).parents[1]
# The callable of each registry whose keyword-only parameters params.yaml may set.
ENTRIES = {
    "sources": ["fetch"],
    "encoders": ["Encoder", "__init__"],
    "decoders": ["Decoder", "__init__"],
}
# What a file of each registry must define.
DEFINED = {
    "sources": ["fetch", "size"],
    "encoders": ["Encoder", "shapes"],
    "decoders": ["Decoder"],
    "metrics": ["score"],
}
# The methods that a decoder must have, one of each list. Those of the interface do not count.
METHODS = [["start"], ["advance"], ["project", "last_layer"]]
INTERFACE = "pipeline.decoders.shared.contract"
# What a decoder may read of the features.
READS = ("pooled", "grid", "both")
# Names that the annotations of these parameters may use, besides Literal, list and |.
TYPES = {
    **{kind.__name__: kind for kind in (int, float, str, bool)},
    **{name: kind for name, kind in vars(ranges).items() if get_origin(kind) is Annotated},
}


def names(kind: str) -> list[str]:
    """Return the modules of `pipeline/<kind>/` that params.yaml may name."""
    return sorted(path.stem for path in (ROOMS / kind).glob("[!_]*.py"))


def find(kind: str, name: str) -> str:
    """Return the module's full name, without importing anything.

    Raises:
        UserError: there is no such module; the message lists those that exist.
    """
    known = names(kind)
    if name not in known:
        raise UserError(
            f"unknown {kind.removesuffix('s')} '{name}'{nearest(name, known)}: there are "
            f"{', '.join(known)}"
        )
    return f"pipeline.{kind}.{name}"


def load(kind: str, name: str) -> ModuleType:
    """Import `pipeline.<kind>.<name>`.

    Raises:
        UserError: as in `find`; or the file is not Python, or lacks what every file of its kind
            has.
    """
    place = find(kind, name)
    file = f"{place.replace('.', '/')}.py"
    try:
        module = import_module(place)
    except SyntaxError as error:
        raise UserError(f"{error.filename or file}, line {error.lineno}: {error.msg}") from None
    missing = [part for part in DEFINED[kind] if not callable(getattr(module, part, None))]
    if missing:
        raise UserError(f"{file} does not define {missing[0]}: every file of its kind does")
    if kind == "decoders" and (problem := _problem(module.Decoder)):
        raise UserError(f"{file}: {problem}")
    return module


def _problem(decoder: Any) -> str:
    """Return what a decoder's class lacks, or ''."""
    if getattr(decoder, "reads", None) not in READS:
        return f"Decoder.reads is {getattr(decoder, 'reads', None)!r}: give {', '.join(READS)}"
    for methods in METHODS:
        found = [getattr(decoder, method, None) for method in methods]
        if all(getattr(one, "__module__", INTERFACE) == INTERFACE for one in found):
            return f"Decoder lacks {' or '.join(methods)}"
    return ""


def nearest(name: object, known: Iterable[object]) -> str:
    """Return a hint for a misspelt name, or ''. Every message that calls a name unknown puts the
    hint after the name."""
    near = get_close_matches(str(name), map(str, known), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def signature(kind: str, name: str) -> inspect.Signature | None:
    """Return the signature that `check_args` needs, or None if the module inherits its entry.

    It is read from the module's source, because an import would import torch.

    Raises:
        TypeError: an annotation cannot be resolved without an import.
        ValueError: a default cannot be resolved without an import.
    """
    node: Any = ast.parse((ROOMS / kind / f"{name}.py").read_text(encoding="utf-8"))
    for part in ENTRIES[kind]:
        node = next((child for child in node.body if getattr(child, "name", "") == part), None)
        if node is None:
            return None
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return inspect.Signature([_parameter(argument, default) for argument, default in pairs])


def reads(decoder: str) -> str:
    """Return what a decoder reads of the features: `pooled`, `grid` or `both`.

    The class `Decoder` of its file says so in `reads`; without that, it reads `both`. As in
    `signature`, this is read from the source.
    """
    tree = ast.parse((ROOMS / "decoders" / f"{decoder}.py").read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    for node in next((found.body for found in classes if found.name == "Decoder"), []):
        match node:
            case ast.Assign(targets=[ast.Name(id="reads")], value=ast.Constant(value=str(said))):
                return said
    return "both"


def _parameter(argument: ast.arg, default: ast.expr | None) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        argument.arg,
        inspect.Parameter.KEYWORD_ONLY,
        default=ast.literal_eval(default) if default else empty,
        annotation=_type(argument.annotation) if argument.annotation else empty,
    )


def _type(node: ast.expr) -> Any:
    """Return the type that an annotation names. Values in params.yaml have few types, so few are
    known here; no code is evaluated."""
    match node:
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_type(item)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            value = ast.literal_eval(choices)
            return Literal[value]
    raise TypeError(
        f"an argument of params.yaml is annotated {ast.unparse(node)}: use Literal, list, | or one "
        f"of {', '.join(TYPES)}"
    )


def check_args(
    target: Callable[..., Any] | inspect.Signature, args: dict[str, Any], where: str
) -> None:
    """Check `args` against the keyword-only parameters of `target`, which params.yaml may set.

    Raises:
        UserError: an argument is unknown or missing, or a value has the wrong type or is out of
            range. The message names all of them.
    """
    known = target if isinstance(target, inspect.Signature) else inspect.signature(target)
    allowed = {n: p for n, p in known.parameters.items() if p.kind is p.KEYWORD_ONLY}
    wrong = [found for name in args if (found := _wrong(allowed, name, args[name], where))]
    missing = [n for n, p in allowed.items() if p.default is p.empty and n not in args]
    if missing and not any(name not in allowed for name in args):  # it may be that name, misspelt
        wrong.append(f"{where}: '{missing[0]}' must be given")
    if wrong:
        raise UserError("; ".join(wrong))
    _check_together(allowed, args, where)


def _wrong(allowed: dict[str, inspect.Parameter], name: str, value: Any, where: str) -> str:
    """Return what is wrong with one argument, or ''."""
    if name not in allowed:
        takes = ", ".join(sorted(allowed)) or "none"
        return f"{where}: unknown argument '{name}'{nearest(name, allowed)}; it takes {takes}"
    try:
        _check_type(allowed[name].annotation, value, f"{where}.{name}")
    except UserError as error:
        return str(error)
    return ""


def _check_together(
    allowed: dict[str, inspect.Parameter], args: dict[str, Any], where: str
) -> None:
    """Check the rules between arguments, including those left at their defaults."""
    values = {name: args.get(name, parameter.default) for name, parameter in allowed.items()}
    for name, parameter in allowed.items():
        for rule in getattr(parameter.annotation, "__metadata__", ()):
            problem = isinstance(rule, ranges.Divides) and rule.problem(values[name], values)
            if problem:
                raise UserError(f"{where}.{name}: {problem}, not {values[name]!r}")


def _check_type(annotation: Any, value: Any, where: str) -> None:
    if annotation is inspect.Parameter.empty:
        return
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        first, near = problems(error, value)[0], ""
        if first.kind == "extra_forbidden":
            kinds = (annotation, *get_args(annotation))  # it may be one of a union
            rules = [rule for kind in kinds for rule in getattr(kind, "__metadata__", ())]
            known = [key for rule in rules if isinstance(rule, ranges.Keys) for key in rule.types]
            near = nearest(first.place[-1], known)
        raise UserError(first.told(where) + near) from None
