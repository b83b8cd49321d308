"""Files of texts, read a few texts at a time, give what the whole file gives."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.data.files import write_json
from pipeline.scoring.json_texts import Texts, _Texts, texts_by_image, write_texts

ODD = [
    "",
    "a dog",
    'says "]", then',
    "ends in ],",
    "  [",
    "two\nlines",
    "\u2028",
    "犬",
    "\\",
    "{",
    '"key": [',
]


def many() -> dict[str, list[str]]:
    """Return the texts of 200 images in no order.

    Keys and texts look like JSON, and some images have no texts.
    """
    keys = [f"{n * 7919 % 200}{ODD[n % len(ODD)]}" for n in range(200)]
    return {key: [ODD[(n + k) % len(ODD)] for k in range(n % 4)] for n, key in enumerate(keys)}


def test_every_image_has_its_texts_in_any_order(tmp_path: Path) -> None:
    write_json(tmp_path / "t.json", many())
    texts = texts_by_image(tmp_path / "t.json")
    assert isinstance(texts, _Texts)
    assert (len(texts), list(texts)) == (200, sorted(many()))
    assert {image: texts[image] for image in many()} == many()
    assert dict(texts) == many()


@pytest.mark.parametrize("image", ["", "0", "x", "199zz"])
def test_an_image_that_is_not_there_is_a_key_error(tmp_path: Path, image: str) -> None:
    write_json(tmp_path / "t.json", {"a": ["b"], "w": []})
    with pytest.raises(KeyError):
        texts_by_image(tmp_path / "t.json")[image]


@pytest.mark.parametrize(
    "layout",
    [{}, {"indent": 4}, {"indent": 2}],
    ids=["one line", "four blanks", "keys in no order"],
)
def test_a_file_that_is_laid_out_otherwise_is_read_whole(
    tmp_path: Path, layout: dict[str, int]
) -> None:
    (tmp_path / "t.json").write_text(json.dumps(many(), **layout))
    assert texts_by_image(tmp_path / "t.json") == many()
    (tmp_path / "list.json").write_text(json.dumps(ODD, indent=layout.get("indent")))
    assert list(Texts(tmp_path / "list.json")) == ODD


@pytest.mark.parametrize("texts", [[], ODD, ODD * 300], ids=["none", "few", "many"])
def test_a_list_is_read_from_its_beginning_each_time(tmp_path: Path, texts: list[str]) -> None:
    write_json(tmp_path / "t.json", texts)
    found = Texts(tmp_path / "t.json")
    assert list(found) == list(found) == texts


def test_no_texts_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "t.json", {})
    assert dict(texts_by_image(tmp_path / "t.json")) == {}


@pytest.mark.parametrize("damage", ["7", "null", '{"a": []}', '"x'])
def test_a_value_that_is_no_text_is_one_line(tmp_path: Path, damage: str) -> None:
    write_json(tmp_path / "t.json", {"a": ["one", "two"], "b": ["three"]})
    write_json(tmp_path / "l.json", ["one", "two"])
    for name in ("t.json", "l.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace('"two"', damage))
    with pytest.raises(UserError, match=r"t\.json"):
        dict(texts_by_image(tmp_path / "t.json"))
    with pytest.raises(UserError, match=r"l\.json"):
        list(Texts(tmp_path / "l.json"))


def test_a_file_of_texts_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for read in (texts_by_image, lambda path: list(Texts(path))):
        with pytest.raises(UserError, match="is not there: run dvc repro"):
            read(tmp_path / "t.json")


@pytest.mark.parametrize("texts", [[], [""], ["one", 'two "quoted"\n', "犬\u2028"]])
def test_texts_are_written_byte_for_byte_as_json_is(tmp_path: Path, texts: list[str]) -> None:
    write_json(tmp_path / "whole.json", texts)
    write_texts(tmp_path / "parts.json", iter(texts))
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert [*Texts(tmp_path / "parts.json")] == texts


def test_texts_that_end_with_an_error_leave_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "one"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_texts(tmp_path / "t.json", broken())
    assert [*tmp_path.iterdir()] == []
