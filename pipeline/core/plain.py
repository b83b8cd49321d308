"""Put pydantic's errors into plain words: `expected a whole number, found 'ten'`."""

from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError

# Pydantic's error type -> what was expected.
EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "keys with values"),
    "list_type": "a list",
    "string_type": "a text",
    "finite_number": "a finite number",
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
# If one of these was expected, a message gives the kind of the value found, not the value.
OF_MANY = ("keys with values", "a list")
# Maximum number of characters of a value in a message.
LONGEST = 80


class Problem(NamedTuple):
    place: tuple[str | int, ...]
    "Keys and item numbers that lead to the problem; () is the whole."
    words: str
    kind: str
    "Pydantic's name for the problem: missing, extra_forbidden, ..."

    def told(self, before: str = "") -> str:
        """Return the problem as part of a line; `before` is what the place begins with."""
        place = ".".join(filter(None, [before, *map(str, self.place)]))
        return f"{place}: {self.words}" if place else self.words


def problems(error: "ValidationError", data: object) -> list[Problem]:
    """Return all problems in pydantic's order, at most one per place.

    Args:
        data: the value that was checked.
    """
    found: dict[tuple[str | int, ...], Problem] = {}
    for each in error.errors(include_url=False):
        place = tuple(_steps(each["loc"], data, each["type"]))
        found.setdefault(place, Problem(place, _words(each), each["type"]))
    return list(found.values())


def _steps(place: tuple[str | int, ...], data: object, kind: str) -> Iterator[str | int]:
    """Yield the parts of pydantic's place that exist in the data, and a missing key at its end.
    Pydantic's place also names the choices of a union type."""
    for part in place:
        inside: Any = data if isinstance(data, Mapping) else {}
        if isinstance(data, list):
            inside = dict(enumerate(data))
        if part in inside:
            data = inside[part]
        elif kind != "missing" or part is not place[-1]:
            continue
        yield part


def _words(problem: Mapping[str, Any]) -> str:
    kind, said = problem["type"], str(problem["msg"])
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "value_error":
        return said.removeprefix("Value error, ")
    if kind not in EXPECTED:  # a custom error's message says what was expected
        return f"expected {said.removeprefix('Input should be ')}, found {found(problem['input'])}"
    limits = {name: _number(limit) for name, limit in problem.get("ctx", {}).items()}
    expected = EXPECTED[kind].format(**limits)
    return f"expected {expected}, found {found(problem['input'], kind_alone=expected in OF_MANY)}"


def _number(limit: object) -> object:
    return f"{limit:g}" if isinstance(limit, float) else limit


def found(value: object, kind_alone: bool = False) -> str:
    """Return a value as it stands in params.yaml. A mapping or list is described by its kind; with
    `kind_alone`, every value is."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false" if kind_alone else str(value).lower()
        case dict():
            return "keys with values"
        case list() | tuple():
            return "a list" if value or kind_alone else "an empty list"
        case int() | float() if kind_alone:
            return "a number"
        case str() if kind_alone:
            return "a text"
    return shorten(repr(value), LONGEST, placeholder=" ...")
