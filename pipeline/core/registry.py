"""The module name is the registry: `pipeline/decoders/lstm.py` is the decoder `lstm`. Adding one is
adding a file."""

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

ROOMS = Path(__file__).parents[1]
"""pipeline/, whose folders `sources`, `encoders`, `decoders` and `metrics` are registries; what
their files share is in shared/"""
ENTRIES = {
    "sources": ["fetch"],
    "encoders": ["Encoder", "__init__"],
    "decoders": ["Decoder", "__init__"],
}
"whose keyword-only parameters are what params.yaml may set"
TYPES = {
    **{kind.__name__: kind for kind in (int, float, str, bool)},
    **{name: kind for name, kind in vars(ranges).items() if get_origin(kind) is Annotated},
}
"the names that their annotations may use, beside Literal, list and |"


def names(kind: str) -> list[str]:
    """The modules of `pipeline/<kind>/` that can be named in params.yaml."""
    return sorted(path.stem for path in (ROOMS / kind).glob("[!_]*.py"))


def find(kind: str, name: str) -> str:
    """The module's full name, nothing imported.

    Raises:
        UserError: there is no such module; the message lists those there are.
    """
    known = names(kind)
    if name not in known:
        raise UserError(
            f"unknown {kind.removesuffix('s')} '{name}'{nearest(name, known)}: there are "
            f"{', '.join(known)}"
        )
    return f"pipeline.{kind}.{name}"


def load(kind: str, name: str) -> ModuleType:
    """Import `pipeline.<kind>.<name>`; errors as in `find`."""
    return import_module(find(kind, name))


def nearest(name: object, known: Iterable[object]) -> str:
    """A hint for whoever misspelt a name, or ''; to stand behind the name in every message that
    calls one unknown."""
    near = get_close_matches(str(name), map(str, known), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def signature(kind: str, name: str) -> inspect.Signature | None:
    """What `check_args` wants of a module, read from its text: importing it would import torch.
    None: it inherits its entry.

    Raises:
        TypeError: an annotation or a default that only the import could resolve.
    """
    node: Any = ast.parse((ROOMS / kind / f"{name}.py").read_text(encoding="utf-8"))
    for part in ENTRIES[kind]:
        node = next((child for child in node.body if getattr(child, "name", "") == part), None)
        if node is None:
            return None
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return inspect.Signature([_parameter(argument, default) for argument, default in pairs])


def reads(decoder: str) -> str:
    """What the class `Decoder` of that file says it reads of features: `pooled`, `grid`, or `both`,
    which is what it reads without saying. Read from its text, like `signature`."""
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
    """The type that an annotation names. What stands in params.yaml is of few types, so few are
    known here; nothing is evaluated."""
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
    """Check `args` against the keyword-only parameters of `target`, which are what params.yaml may
    set.

    Raises:
        UserError: an unknown or missing argument, or a value of the wrong type or out of range.
    """
    known = target if isinstance(target, inspect.Signature) else inspect.signature(target)
    allowed = {n: p for n, p in known.parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name, value in args.items():
        if name not in allowed:
            takes = ", ".join(sorted(allowed)) or "none"
            raise UserError(
                f"{where}: unknown argument '{name}'{nearest(name, allowed)}; it takes {takes}"
            )
        _check_type(allowed[name].annotation, value, f"{where}.{name}")
    missing = [n for n, p in allowed.items() if p.default is p.empty and n not in args]
    if missing:
        raise UserError(f"{where}: '{missing[0]}' must be given")
    _check_together(allowed, args, where)


def _check_together(
    allowed: dict[str, inspect.Parameter], args: dict[str, Any], where: str
) -> None:
    """What holds between arguments, defaults among them."""
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
