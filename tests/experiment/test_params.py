"""An error about params.yaml is one line, which tells all problems at once."""

import inspect
from pathlib import Path

import pytest
import yaml

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder
from pipeline.experiment.params import Params, load_params, pick
from tests.workspace import ROOT


def test_unknown_names_are_told_all_at_once_before_anything_runs(
    tmp_path: Path, data: dict
) -> None:  # type: ignore[type-arg]
    data["variants"]["merge"]["decoder"] = "merg"
    data["features"]["scenes-lite0"]["encoder"] = "resnet"
    data["scoring"]["metrics"] = ["ciderr"]
    message = complaint(tmp_path, data)
    assert (
        "variants.merge.decoder: unknown decoder 'merg' (did you mean 'merge'?): there are "
        in message
    )
    assert "features.scenes-lite0.encoder: unknown encoder 'resnet': there are " in message
    assert "scoring.metrics: unknown metric 'ciderr' (did you mean 'cider'?): there are " in message


def test_arguments_and_rows_of_papers_are_checked_before_anything_runs(
    tmp_path: Path, data: dict
) -> None:  # type: ignore[type-arg]
    data["variants"]["merge"]["args"]["hiden"] = data["variants"]["merge"]["args"].pop("hidden")
    data["variants"]["merge"]["paper"] = {"table": "sat_flickr8k", "system": "sad"}
    data["variants"]["lstm"]["args"]["layers"] = "two"
    data["variants"]["lstm"]["paper"] = {"table": "sat_flickr9k", "system": "sat"}
    del data["features"]["scenes-lite0"]["args"]["model"]
    data["datasets"]["scenes"]["args"]["seed"] = 1.5
    message = complaint(tmp_path, data)
    assert "datasets.scenes.args.seed: expected a whole number, found 1.5" in message
    assert "features.scenes-lite0.args: 'model' must be given" in message
    assert (
        "variants.merge.args: unknown argument 'hiden' (did you mean 'hidden'?); it takes dropout, "
        in message
    )
    assert "variants.lstm.args.layers: expected a whole number, found 'two'" in message
    assert (
        "variants.merge.paper.system: 'sat_flickr8k' in papers.yaml has no 'sad' (did you "
        "mean 'sat'?): there" in message
    )
    assert (
        "variants.lstm.paper.table: papers.yaml has no 'sat_flickr9k' (did you mean "
        "'sat_flickr8k'?): there are " in message
    )


@pytest.mark.parametrize("kind", registry.ENTRIES)
def test_a_signature_read_from_the_text_is_that_of_the_imported_module(kind: str) -> None:
    for name in registry.names(kind):
        read, entry = registry.signature(kind, name), registry.load(kind, name)
        for part in registry.ENTRIES[kind]:
            entry = getattr(entry, part)
        known = inspect.signature(entry).parameters.values()
        wanted = {p.name: (p.annotation, p.default) for p in known if p.kind is p.KEYWORD_ONLY}
        assert read, name
        assert {p.name: (p.annotation, p.default) for p in read.parameters.values()} == wanted, name


def test_the_committed_params_are_the_quickstart() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "experiments/quickstart.yaml").read_text()


@pytest.fixture
def data() -> dict:  # type: ignore[type-arg]
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def complaint(tmp_path: Path, data: object) -> str:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as error:
        load_params(file)
    return str(error.value).removeprefix(f"{file}: ")


def test_a_misspelt_key_is_named(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["train"]["learning_rate"] = data["train"].pop("lr")
    assert complaint(tmp_path, data) == "train.lr: missing; train.learning_rate: unknown key"


def test_a_misspelt_key_names_the_one_that_is_near(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["train"]["epoch"] = 3
    data["variants"]["merge"]["decodr"] = {}
    data["variants"]["merge"]["train"] = {"optimiser": "adam"}
    assert complaint(tmp_path, data).split("; ") == [
        "train.epoch: unknown key (did you mean 'epochs'?)",
        "variants.merge.decodr: unknown key (did you mean 'decoder'?)",
        "variants.merge.train.optimiser: unknown key (did you mean 'optimizer'?)",
    ]


def test_wrong_keys_and_unknown_names_are_told_in_one_run(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["train"] = 3
    data["scoring"]["metrics"] = ["ciderr"]
    data["variants"]["merge"] |= {"decoder": "merg", "corpus": "scenez", "colour": "red"}
    data["corpora"]["scenes"]["language"] = "eng"
    data["corpora"]["scenes"]["max_words"] = 0
    data["scoring"]["protocols"] = ["greddy"]
    told = complaint(tmp_path, data).split("; ")
    assert [line.split(": there are ")[0] for line in told] == [
        "corpora.scenes.max_words: expected at least 1, found 0",
        "train: expected keys with values, found a number",
        "variants.merge.colour: unknown key",
        "scoring.metrics: unknown metric 'ciderr' (did you mean 'cider'?)",
        "variants.merge.decoder: unknown decoder 'merg' (did you mean 'merge'?)",
        "variants.merge.corpus: 'scenez' is not in corpora (did you mean 'scenes'?)",
        "scoring.protocols: unknown protocol 'greddy' (did you mean 'greedy'?)",
        "corpora.scenes.language: unknown language 'eng' (did you mean 'en'?)",
    ]


@pytest.mark.parametrize("section", ["datasets", "corpora", "features", "scoring", "variants"])
@pytest.mark.parametrize("wrong", [None, 3, "x", [], ["x"], {"x": 3}, {3: {}}, {"x": {"args": 3}}])
def test_a_section_of_another_kind_is_told_and_nothing_is_said_to_be_unknown_for_it(
    tmp_path: Path,
    data: dict,  # type: ignore[type-arg]
    section: str,
    wrong: object,
) -> None:
    data[section] = wrong
    told = complaint(tmp_path, data).split("; ")
    assert told[0].startswith(section)
    if not isinstance(wrong, dict):
        assert told == [f"{section}: expected keys with values, found {KINDS[type(wrong)]}"]


KINDS = {type(None): "null", int: "a number", str: "a text", list: "a list"}


def test_a_mistake_of_all_rows_is_told_once(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["train"]["seeds"] = [1, 1]
    data["scoring"]["protocols"] = ["greedy", "beam-9"]
    data["decode"]["also"] = []
    assert complaint(tmp_path, data).split("; ") == [
        "scoring.protocols: greedy needs captions of that search: decode: {also: [greedy]}",
        "scoring.protocols: beam-9 needs captions of that search: decode: {also: [beam-9]}",
        "train.seeds: a seed occurs twice",
    ]
    data["train"]["lr"] = "fast"
    data["variants"]["merge"]["train"] = {"epochs": 1}
    assert complaint(tmp_path, data) == "train.lr: expected a number, found 'fast'"


def test_a_key_of_a_row_that_is_missing_is_named_with_the_value_that_changes_nothing(
    tmp_path: Path,
    data: dict,  # type: ignore[type-arg]
) -> None:
    data["variants"] = {
        "slow": {"corpus": "scenes", "features": "scenes-lite0", "decoder": "merge"}
    }
    row = data["features"]["scenes-lite0"]
    del data["decode"]["also"], row["dtype"], row["keep"]
    keys = {"args": "{}", "train": "{}", "decode": "{}", "protocols": "[]"}
    told = [f"variants.slow.{key}: missing, write {key}: {value}" for key, value in keys.items()]
    assert complaint(tmp_path, data).split("; ") == [
        "features.scenes-lite0.dtype: missing",
        "features.scenes-lite0.keep: missing, write keep: both",
        "decode.also: missing, write also: []",
        *told,
    ]
    del data["train"]
    assert "; train: missing; " in complaint(tmp_path, data)


@pytest.mark.parametrize(
    ("keep", "decoders", "said"),
    [
        ("grid", ["merge", "lstm", "soft_attention"], "pooled is read by lstm, merge: write both"),
        (
            "pooled",
            ["merge", "lstm", "soft_attention"],
            "grid is read by soft-attention: write both",
        ),
        ("grid", ["merge", "lstm", "prefix_lm"], "pooled is read by {}: write pooled"),
        (
            "pooled",
            ["hard_attention", "soft_attention", "transformer"],
            "grid is read by {}: write grid",
        ),
    ],
)
def test_features_that_do_not_keep_what_a_decoder_reads_are_named_with_what_to_write(
    tmp_path: Path,
    data: dict,  # type: ignore[type-arg]
    keep: str,
    decoders: list[str],
    said: str,
) -> None:
    data["features"]["scenes-lite0"]["keep"] = keep
    for row, decoder in zip(data["variants"].values(), decoders, strict=True):
        row |= {"decoder": decoder, "args": {}}
    said = said.format(", ".join(sorted(data["variants"]))).replace("write ", "write keep: ")
    assert complaint(tmp_path, data) == f"features.scenes-lite0.keep: {keep}, but {said}"


def test_a_wrong_type_is_named_with_its_value(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["train"]["epochs"] = "ten"
    assert complaint(tmp_path, data) == "train.epochs: expected a whole number, found 'ten'"


def test_a_variants_own_override_is_checked_under_its_own_name(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["variants"]["merge"]["train"] = {"schedule": "cosin"}
    expected = (
        "variants.merge.train.schedule: expected 'constant', 'linear', 'cosine' or "
        "'plateau', found 'cosin'"
    )
    assert complaint(tmp_path, data) == expected


def test_references_that_lead_nowhere_list_what_there_is(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["variants"]["merge"]["corpus"] = "coco"
    data["features"]["scenes-lite0"]["dataset"] = "scene"
    message = complaint(tmp_path, data)
    assert (
        "features.scenes-lite0.dataset: 'scene' is not in datasets (did you mean 'scenes'?): there are scenes"
        in message
    )
    assert "variants.merge.corpus: 'coco' is not in corpora: there are scenes" in message


def test_a_name_with_a_dot_is_refused_because_dvc_would_split_it(
    tmp_path: Path, data: dict
) -> None:  # type: ignore[type-arg]
    data["variants"]["merge.2"] = data["variants"].pop("merge")
    assert complaint(tmp_path, data) == (
        "variants.merge.2: expected a name of small letters, digits, - and _, found 'merge.2'"
    )


def test_an_unknown_search_is_told_in_words(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["decode"]["also"] = ["beam-0"]
    assert complaint(tmp_path, data) == "decode.also.0: expected greedy or beam-<k>, found 'beam-0'"


def test_a_row_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        pick(load_params(ROOT / "params.yaml"), "variants", "mergee")
    assert str(error.value) == (
        "'mergee' is not in variants of params.yaml (did you mean 'merge'?): there are "
        "merge, lstm, soft-attention"
    )


def test_a_missing_file_says_what_to_copy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cp experiments/quickstart\.yaml params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {lr: [")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_scientific_notation_is_a_number_for_us_as_for_dvc(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("lr: 0.001", "lr: 1e-3")
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").train.lr == 0.001


def test_no_value_that_changes_a_result_has_a_default_in_code() -> None:
    """No stage depends on params.py, so a default in it would change results unnoticed."""
    told_apart = {("Variant", "paper"), ("Variant", "notes")}
    told_apart |= {("Scoring", "chair")}  # the metric chair cannot be requested without it
    for section in [
        Params,
        *(m for m in vars(inspect.getmodule(Params)).values() if inspect.isclass(m)),
    ]:
        for name, field in getattr(section, "model_fields", {}).items():
            assert field.is_required() or (section.__name__, name) in told_apart, (
                f"{section.__name__}.{name}"
            )


def test_an_unknown_decoder_lists_those_there_are_and_the_nearest() -> None:
    with pytest.raises(
        UserError,
        match=r"unknown decoder 'soft_atention' \(did you mean 'soft_attention'\?\): there are ",
    ):
        registry.load("decoders", "soft_atention")


def test_an_unknown_argument_lists_those_there_are_and_the_nearest() -> None:
    with pytest.raises(
        UserError,
        match=r"here: unknown argument 'hiden' \(did you mean 'hidden'\?\); it takes dropout, ",
    ):
        build_decoder("merge", Sizes(8, 8, 30), {"hiden": 3}, "here")


def test_an_argument_of_the_wrong_type_is_named() -> None:
    with pytest.raises(UserError, match=r"^here\.hidden: expected a whole number, found '3'$"):
        build_decoder("merge", Sizes(8, 8, 30), {"hidden": "3"}, "here")
