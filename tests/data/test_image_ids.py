"""Ids that are held in little memory stay the same, whatever their letters."""

import random

import pytest

from pipeline.data import image_ids
from pipeline.data.image_ids import ImageIds

# In the order of their code points.
ODD = ["", "a", "a/b c.jpg", "ab", "b", "z", "ä", "日本", "\U0001f600"]


@pytest.fixture(params=[1, 4, 100])
def ids(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ImageIds:
    monkeypatch.setattr(image_ids, "MANY", request.param)
    return ImageIds(iter(ODD))


def test_they_stand_in_their_order(ids: ImageIds) -> None:
    assert list(ids) == ODD
    assert len(ids) == len(ODD)
    assert (ids[7], ids[-1]) == ("日本", "\U0001f600")
    with pytest.raises(IndexError):
        ids[len(ODD)]


def test_each_is_found_at_its_place_and_no_other_is(ids: ImageIds) -> None:
    assert ids.find(["日本", "", "a", "longer than any of them", "b\u0301", "a"]).tolist() == [
        7,
        0,
        1,
        -1,
        -1,
        1,
    ]
    assert [text in ids for text in ("ab", "abc", "A", "\U0001f601")] == [True, False, False, False]
    assert 3 not in ids


def test_those_that_are_lacking_are_named_once_in_their_order(ids: ImageIds) -> None:
    assert ids.lacking(["zz", "a", "c", "zz", "b", "c"]) == ["zz", "c"]
    assert ids.lacking(ODD) == []


def test_a_thousand_ids_are_found_as_a_dict_finds_them() -> None:
    rng = random.Random(0)
    texts = sorted({"".join(rng.choices("abé日/_0", k=rng.randrange(6))) for _ in range(1000)})
    known = texts[::2]
    places = {text: n for n, text in enumerate(known)}
    assert ImageIds(known).find(texts).tolist() == [places.get(text, -1) for text in texts]


def test_none_is_found_where_there_is_none() -> None:
    assert ImageIds([]).find(["a"]).tolist() == [-1]
    assert ImageIds([]).lacking(["a"]) == ["a"]


@pytest.mark.parametrize("texts", [["b", "a"], ["a", "a"], ["a", "B"]])
def test_ids_out_of_order_or_twice_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="in order, each once"):
        ImageIds(texts)


def test_ids_in_any_order_are_put_in_order_with_their_places() -> None:
    ids, places = ImageIds.placed(["b", "é", "a"])
    assert (list(ids), places is not None and places.tolist()) == (["a", "b", "é"], [2, 0, 1])
    ids, places = ImageIds.placed(["a", "b", "é"])
    assert (list(ids), places) == (["a", "b", "é"], None)
    assert (list(ImageIds.placed([])[0]), ImageIds.placed([])[1]) == ([], None)
    with pytest.raises(ValueError, match="in order, each once"):
        ImageIds.placed(["b", "a", "b"])
