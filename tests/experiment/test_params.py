"""params.yaml: a wrong one is told in one line, all problems at once."""

import inspect
from pathlib import Path

import pytest
import yaml

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder
from pipeline.experiment.params import Params, load_params
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
    assert "datasets.scenes.args.seed: should be a valid integer, not 1.5" in message
    assert "features.scenes-lite0.args: 'model' must be given" in message
    assert (
        "variants.merge.args: unknown argument 'hiden' (did you mean 'hidden'?); it takes dropout, "
        in message
    )
    assert "variants.lstm.args.layers: should be a valid integer, not 'two'" in message
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
    assert complaint(tmp_path, data) == "train.epochs: should be a valid integer, not 'ten'"


def test_a_variants_own_override_is_checked_under_its_own_name(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["variants"]["merge"]["train"] = {"schedule": "cosin"}
    expected = (
        "variants.merge.train.schedule: should be 'constant', 'linear', 'cosine' or "
        "'plateau', not 'cosin'"
    )
    assert complaint(tmp_path, data) == expected


def test_references_that_lead_nowhere_list_what_there_is(tmp_path: Path, data: dict) -> None:  # type: ignore[type-arg]
    data["variants"]["merge"]["corpus"] = "coco"
    data["features"]["scenes-lite0"]["dataset"] = "scene"
    message = complaint(tmp_path, data)
    assert "features.scenes-lite0.dataset: 'scene' is not in datasets (there are scenes)" in message
    assert "variants.merge.corpus: 'coco' is not in corpora (there are scenes)" in message


def test_a_name_with_a_dot_is_refused_because_dvc_would_split_it(
    tmp_path: Path, data: dict
) -> None:  # type: ignore[type-arg]
    data["variants"]["merge.2"] = data["variants"].pop("merge")
    assert "variants.merge.2" in complaint(tmp_path, data)


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
    """params.py is no dependency of any stage, so a default in it would change results unseen."""
    told_apart = {("Variant", "paper"), ("Variant", "notes")}
    told_apart |= {("Scoring", "chair")}  # the metric of that name cannot be asked without it
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
    with pytest.raises(UserError, match=r"^here\.hidden: should be a valid integer, not '3'$"):
        build_decoder("merge", Sizes(8, 8, 30), {"hidden": "3"}, "here")
