"""CHAIR, by hand and by the rules of the original code."""

import json
from pathlib import Path

import pytest

from captionlab.evaluation import evaluate
from pipeline.core.errors import UserError
from pipeline.experiment.params import load_params
from pipeline.metrics import chair
from pipeline.metrics.shared.base import Unavailable
from tests.workspace import tiny_params, write_params

SYNONYMS = """\
person, girl, boy, man, woman, child, people, passenger, baby
bicycle, bike
dog, puppy
bird, duck, goose
chair, seat, stool
toilet, urinal
train
tie
knife
traffic light, street light
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    return {"synonyms": str(tmp_path / "synonyms.txt"), "instances": []}


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("two men and a puppy", ["person", "dog"]),
        ("three children ride bikes", ["person", "bicycle"]),
        ("geese and knives", ["bird", "knife"]),
        ("a baby bird", ["bird"]),
        ("a passenger train", ["train"]),
        ("a man in a bow tie", ["person", "tie"]),
        ("the seat of the toilet", ["toilet"]),
        ("a toilet seat", ["toilet"]),
        ("a train track", []),
        ("traffic lights above a dog and a dog", ["traffic light", "dog", "dog"]),
        ("a red wall", []),
    ],
)
def test_the_objects_of_a_caption_are_those_of_the_originals_rules(
    files: dict[str, object], caption: str, objects: list[str]
) -> None:
    assert chair.read_objects(str(files["synonyms"])).said(caption) == objects


def test_chair_of_three_captions_by_hand(files: dict[str, object]) -> None:
    """Caption 1 names a dog and a bike, and the bike is not there. Caption 2 names nothing.

    Caption 3 names a person twice, who is there; it does not name the duck that is there, too.
    """
    said = {"1": "a dog and a bike", "2": "a red wall", "3": "a boy and a boy"}
    meant = {"1": ["a puppy", "a dog"], "2": ["a train"], "3": ["a man", "a person with ducks"]}
    found = chair.score(said, meant, files)
    assert found.corpus == {"chair_i": 1 / 4, "chair_s": 1 / 3, "object_recall": 2 / 4}
    assert found.per_image == {
        "chair_i": {"1": 0.5, "3": 0},
        "chair_s": {"1": 1, "2": 0, "3": 0},
        "object_recall": {"1": 1, "2": 0, "3": 0.5},
    }
    assert found.sums is not None
    assert found.sums.score(found.sums.statistics.sum(0)) == found.corpus


def test_segmentations_count_beside_the_references(
    files: dict[str, object], tmp_path: Path
) -> None:
    instances = {
        "categories": [{"id": 7, "name": "bicycle"}],
        "images": [{"id": 1, "file_name": "COCO_val2014_01.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 7}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    more = {**files, "instances": [str(tmp_path / "instances.json")]}
    for image in ("1", "COCO_val2014_01"):
        said, meant = {image: "a dog and a bike"}, {image: ["a puppy"]}
        assert chair.score(said, meant, files).corpus["chair_i"] == 0.5
        found = chair.score(said, meant, more).corpus
        assert found == {"chair_i": 0, "chair_s": 0, "object_recall": 1}


def test_what_chair_lacks_is_one_line(files: dict[str, object], tmp_path: Path) -> None:
    said, meant = {"1": "a dog"}, {"1": ["a dog"]}
    with pytest.raises(Unavailable, match="it needs COCO's synonyms"):
        chair.score(said, meant)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "odd.json").write_text('{"images": []}')
    unknown = {"categories": [{"id": 1, "name": "sofa"}], "images": [{"id": 1, "file_name": "a"}]}
    unknown["annotations"] = [{"image_id": 1, "category_id": 1}]
    (tmp_path / "sofa.json").write_text(json.dumps(unknown))
    for more, text in (
        (
            {"synonyms": str(tmp_path / "none.txt")},
            "none.txt is not a text file: name COCO's synonyms",
        ),
        (
            {"synonyms": str(tmp_path / "empty.txt")},
            "empty.txt is empty: name COCO's synonyms, a line of words an object",
        ),
        ({"instances": [str(tmp_path)]}, f"{tmp_path} is not a file: name COCO's instances"),
        ({"instances": [str(tmp_path / "empty.txt")]}, ": name COCO's instances"),
        ({"instances": [str(tmp_path / "odd.json")]}, "odd.json is not a file of COCO's instances"),
        ({"instances": [str(tmp_path / "sofa.json")]}, "the object 'sofa' is not in "),
    ):
        with pytest.raises(UserError) as error:
            chair.score(said, meant, {**files, **more})
        assert text in str(error.value)
    with pytest.raises(UserError) as error:
        evaluate(said, meant, "chair", "raw")
    assert str(error.value) == "chair needs COCO's synonyms: give synonyms=FILE"


def test_a_judge_without_its_files_is_said_before_the_first_stage(tmp_path: Path) -> None:
    params = tiny_params()
    params["scoring"]["metrics"] = ["cider", "chair"]
    write_params(tmp_path, params)
    with pytest.raises(UserError, match=r"scoring\.chair: chair needs COCO's synonyms"):
        load_params(tmp_path / "params.yaml")
    params["scoring"]["chair"] = {"synonyms": "synonyms.txt"}
    write_params(tmp_path, params)
    with pytest.raises(
        UserError, match=r"scoring\.chair\.instances: missing, write instances: \[\]$"
    ):
        load_params(tmp_path / "params.yaml")
    params["scoring"]["chair"]["instances"] = []
    write_params(tmp_path, params)
    asked = load_params(tmp_path / "params.yaml").scoring
    assert asked.chair_files == {"synonyms": "synonyms.txt", "instances": []}


def test_the_command_takes_the_files_and_says_what_lacks(captionlab, files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    said, meant = {"1": "a dog and a bike", "2": "a boy"}, {"1": ["a dog"], "2": ["a boy"]}
    for name, content in (("said", said), ("meant", meant)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    instances = {
        "images": [{"id": 1, "file_name": "x.jpg"}],
        "categories": [{"id": 7, "name": "bicycle"}],
        "annotations": [{"image_id": 1, "category_id": 7}],
    }
    (tmp_path / "there.json").write_text(json.dumps(instances))
    call = [
        "score", tmp_path / "said.json", tmp_path / "meant.json", "--protocol", "raw", "--metrics", "chair",
    ]  # fmt: skip
    named = ["--synonyms", files["synonyms"]]
    lacks = (2, "", "error: chair needs COCO's synonyms: give --synonyms FILE\n")
    assert captionlab(*call) == lacks
    assert "it reads English, and" in captionlab(*call, "--language", "de")[1]
    out = tmp_path / "out.json"
    for more, wrong in ([], 1 / 3), (["--instances", tmp_path / "there.json"], 0.0):
        assert captionlab(*call, *named, *more, "--out", out)[0] == 0
        assert json.loads(out.read_text())["scores"]["chair_i"] == pytest.approx(wrong)
    status, _, err = captionlab(*call[:-1], "bleu", *named)
    assert (status, err) == (
        2,
        "error: --synonyms FILE and --instances FILE are for the metric chair: name it, too\n",
    )
    status, _, err = captionlab(*call, "--instances", tmp_path / "there.json")
    assert (status, "", err) == lacks
