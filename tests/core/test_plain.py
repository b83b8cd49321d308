"""Errors that pydantic finds are explained in plain words."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from pipeline.core import plain
from pipeline.core.ranges import Exponent, Form, Lora, Positive, Share


class Inner(BaseModel, extra="forbid"):
    size: Positive = 1


class Settings(BaseModel, extra="forbid"):
    count: Positive = 1
    share: Share = 0.5
    power: Exponent = 1.0
    on: bool = True
    name: Annotated[str, Form(r"^[a-z]+$", "small letters")] = "a"
    kind: Literal["one", "two"] = "one"
    many: Annotated[list[int], Field(min_length=1)] = [1]
    inner: Inner = Inner()
    rows: dict[str, Any] = {}
    either: str | list[str] = "a"
    lora: Lora = {}
    beside: Inner | None = None


def told(**values: object) -> list[str]:
    with pytest.raises(ValidationError) as error:
        Settings.model_validate(values, strict=True)
    return [problem.told() for problem in plain.problems(error.value, values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"count": "ten"}, "count: expected a whole number, found 'ten'"),
        ({"count": 1.5}, "count: expected a whole number, found 1.5"),
        ({"count": None}, "count: expected a whole number, found null"),
        ({"count": 0}, "count: expected at least 1, found 0"),
        ({"count": 10**10}, "count: expected at most 1000000000, found 10000000000"),
        ({"share": 1.5}, "share: expected at most 1, found 1.5"),
        ({"share": float("nan")}, "share: expected a finite number, found nan"),
        ({"power": "2"}, "power: expected a number, found '2'"),
        ({"on": "yes"}, "on: expected true or false, found 'yes'"),
        ({"name": "A"}, "name: expected small letters, found 'A'"),
        ({"name": 3}, "name: expected small letters, found 3"),
        ({"kind": "three"}, "kind: expected 'one' or 'two', found 'three'"),
        ({"many": []}, "many: expected a list of at least 1, found an empty list"),
        ({"many": 3}, "many: expected a list, found a number"),
        ({"many": [1, "x"]}, "many.1: expected a whole number, found 'x'"),
        ({"inner": 3}, "inner: expected keys with values, found a number"),
        ({"inner": []}, "inner: expected keys with values, found a list"),
        ({"inner": {"size": True}}, "inner.size: expected a whole number, found true"),
        ({"inner": {"colour": 1}}, "inner.colour: unknown key"),
        ({"beside": "x"}, "beside: expected keys with values, found a text"),
        ({"rows": "x"}, "rows: expected keys with values, found a text"),
        ({"either": 3}, "either: expected a text, found 3"),
        ({"lora": {"targets": 3}}, "lora.targets: expected a text, found 3"),
        ({"lora": {"rank": {}}}, "lora.rank: expected a whole number, found keys with values"),
    ],
)
def test_each_kind_of_mistake_has_its_words(values: dict[str, Any], expected: str) -> None:
    assert told(**values) == [expected]


def test_a_long_value_is_told_by_its_beginning() -> None:
    assert told(kind="so long " * 50)[0].startswith("kind: expected 'one' or 'two', found 'so long")
    assert len(told(kind="so long " * 50)[0]) < 130


def test_a_missing_key_is_told_with_its_place() -> None:
    class Outer(BaseModel):
        rows: dict[str, Needs]

    with pytest.raises(ValidationError) as error:
        Outer.model_validate({"rows": {"a": {}}})
    found = plain.problems(error.value, {"rows": {"a": {}}})
    assert [problem.told("file") for problem in found] == ["file.rows.a.key: missing"]


class Needs(BaseModel):
    key: int
