"""`captionlab.Captioner` from Python: it finds models by name, takes pictures in any form, and
returns an answer for each."""

import math
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from captionlab import Captioner, UserError
from pipeline.captioner.captioner import GREEDY
from pipeline.captioner.captioner import Captioner as Model
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, save_model
from pipeline.decoders.shared.tokenizers import word_tokenizer
from tests.workspace import ROOT

DECODE = {**GREEDY, "beam": 3, "max_tokens": 5, "length_penalty": 0.7, "alternatives": 2}
ENCODER = {"image_size": 4}
WORDS = "a red dog runs on the green beach"


def make_model(folder: Path) -> None:
    """Write a soft-attention model over the 4 x 4 pixels of a picture. Its weights are large enough
    to give different pictures different captions."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer([WORDS], 1)
    sizes, args = Sizes(3, 3, len(tokenizer)), {"embedding": 8, "hidden": 8, "attention": 8}
    decoder = build_decoder("soft_attention", sizes, args)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(torch.randn_like(weight))
    config = {"decoder": "soft_attention", "args": args, "sizes": asdict(sizes)}
    save_model(
        folder, decoder, tokenizer, config | {"encoder": {"name": "pixels", "args": ENCODER}}
    )
    write_json(folder / "decode.json", DECODE)


def picture(n: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(n).integers(0, 256, (8, 8, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/ and photos/. Of the four pictures, 2.png is broken."""
    root = tmp_path_factory.mktemp("made")
    make_model(root / "model")
    (root / "photos").mkdir()
    for n in range(4):
        picture(n).save(root / f"photos/{n}.png")
    (root / "photos/2.png").write_bytes(b"no picture")
    return root


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def captioner(here: Path) -> Captioner:
    return Captioner.load("model", device="cpu")


def test_a_folder_decodes_as_its_decode_json_says(captioner: Captioner) -> None:
    theirs = Model.load(Path("model"), "cpu", DECODE).caption([picture(0)])[0]
    (ours,) = captioner.caption(picture(0))
    assert (ours.text, ours.log_prob) == (theirs.text, theirs.log_prob)
    assert ours.alternatives == theirs.alternatives
    assert len(ours.alternatives) == 2
    assert captioner.decoding == DECODE


def test_a_variant_of_the_workspace_decodes_as_params_yaml_says(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "model", tmp_path / "models/lstm")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["decode"] |= {"beam": 4, "max_tokens": 3, "alternatives": 3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    captioner = Captioner.load("lstm", device="cpu")
    assert [captioner.decoding[key] for key in ("beam", "max_tokens", "alternatives")] == [4, 3, 3]
    assert len(captioner.caption(picture(0))[0].alternatives) == 3


def test_a_variant_of_another_workspace_decodes_as_that_workspace_says(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["variants"]["merge"]["decode"] = {"beam": 7}
    (tmp_path / "other/models").mkdir(parents=True)
    (tmp_path / "other/params.yaml").write_text(yaml.safe_dump(params))
    for name in ("merge", "old"):
        folder = shutil.copytree(made / "model", tmp_path / "other/models" / name)
        (folder / "decode.json").unlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    decoding = Captioner.load(tmp_path / "other/models/merge", device="cpu").decoding
    assert (decoding["beam"], decoding["max_tokens"]) == (7, params["decode"]["max_tokens"])
    assert Captioner.load("../other/models/merge", device="cpu").decoding == decoding
    assert capsys.readouterr().err == ""
    assert Captioner.load("../other/models/old", device="cpu").decoding == GREEDY
    (tmp_path / "other/params.yaml").unlink()
    assert Captioner.load("../other/models/merge", device="cpu").decoding == GREEDY
    assert capsys.readouterr().err.splitlines() == [
        f"../other/models/{name} does not say how it decodes (it has no decode.json): greedily"
        for name in ("old", "merge")
    ]
    write_json(tmp_path / "other/models/merge/decode.json", DECODE)
    assert Captioner.load("../other/models/merge", device="cpu").decoding == DECODE
    assert capsys.readouterr().err == ""


def test_every_form_of_a_picture_has_the_same_caption(captioner: Captioner) -> None:
    path = Path("photos/1.png")
    forms = [path, str(path), path.read_bytes(), np.asarray(picture(1)), picture(1)]
    found = captioner.caption(forms)
    assert {caption.text for caption in found} == {captioner.caption(path)[0].text}
    assert [caption.image for caption in found] == ["photos/1.png", "photos/1.png", "2", "3", "4"]
    for form in forms:
        assert captioner.caption(form)[0].text == found[0].text
    assert captioner.caption(np.stack([np.asarray(picture(1))] * 2))[1].text == found[0].text


def test_a_broken_picture_has_its_reason_and_the_others_of_the_folder_their_captions(
    captioner: Captioner,
) -> None:
    found = captioner.caption("photos", attention=True)
    assert [c.image for c in found] == [f"photos/{n}.png" for n in range(4)]
    assert [c.error for c in found] == ["", "", "not a picture", ""]
    assert found[2].text == ""
    assert math.isnan(found[2].log_prob)
    assert (found[2].alternatives, found[2].attention) == ([], None)
    theirs = [captioner.caption(picture(n))[0].text for n in (0, 1, 3)]
    assert [c.text for c in found if not c.error] == theirs
    assert captioner.caption("gone.png")[0].error == "cannot be read (No such file or directory)"


def test_beam_samples_and_alternatives_hold_for_one_call(captioner: Captioner) -> None:
    model = Model.load(Path("model"), "cpu", {**DECODE, "beam": 4, "alternatives": 4})
    (found,) = captioner.caption(picture(0), beam=4, alternatives=4)
    assert found.alternatives == model.caption([picture(0)])[0].alternatives
    assert len(found.alternatives) == 4
    drawing = Model.load(Path("model"), "cpu", {**DECODE, "samples": 6, "alternatives": 2})
    (drawn,) = captioner.caption(picture(0), samples=6)
    assert drawn.alternatives == drawing.caption([picture(0)])[0].alternatives
    assert captioner.decoding == DECODE


def test_attention_has_a_square_map_of_sum_one_for_each_word(captioner: Captioner) -> None:
    (found,) = captioner.caption(picture(0), attention=True)
    assert found.attention is not None
    assert [word for word, _ in found.attention] == found.text.split()
    for _, weights in found.attention:
        assert weights.shape == (4, 4)
        assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert captioner.caption(picture(0))[0].attention is None


def test_attention_to_the_right_half_lies_in_the_columns_of_the_right(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 16 positions are in row order, so every fourth one lies in the right column."""
    weights = [0.25 if n % 4 == 3 else 0.0 for n in range(16)]
    monkeypatch.setattr(Model, "attention", lambda *_: [("dog", weights)])
    words = captioner.caption(picture(0), attention=True)[0].attention
    assert words is not None
    assert words[0][1][:, 3].tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "no pictures to caption: give a path, "),
        (5, {}, "one of type int is not a picture: give a path, "),
        (["photos/0.png", 5], {}, "picture 1 is of type int: give a path, "),
        ("model", {}, r"model holds no images \("),
        ("photos/0.png", {"beam": 0}, "beam is 0: give 1 or more"),
        ("photos/0.png", {"alternatives": 4}, "alternatives is 4, but beam is 3: give a larger beam"),
        ("photos/0.png", {"alternatives": 3, "samples": 2},
         "alternatives is 3, but samples is 2: give a larger samples"),
        ("photos/0.png", {"beam": 2, "samples": 2}, "beam and samples exclude each other: give only"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    captioner: Captioner, images: object, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        captioner.caption(images, **options)  # type: ignore[arg-type]


def test_an_unknown_model_is_one_line(here: Path) -> None:
    with pytest.raises(UserError, match=r"^unknown model 'gone': there are champion, or name a"):
        Captioner.load("gone")
    with pytest.raises(UserError) as error:
        Captioner.load("champoin")
    assert str(error.value) == (
        "unknown model 'champoin' (did you mean 'champion'?): there are champion, or name a model "
        "folder"
    )


@pytest.fixture
def registry(
    made: Path, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A store of its own that holds the model, and the names that find it there: a run, a version
    and a champion."""
    from mlflow import MlflowClient

    shutil.copy(database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(uri)
    experiment = client.create_experiment("captionlab", str(tmp_path / "runs"))
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(made / "model"), "captioner/artifacts/captioner")
    client.create_registered_model("captionlab-scenes")
    source = f"{tmp_path}/runs/{run}/artifacts/captioner"
    version = client.create_model_version("captionlab-scenes", source, run).version
    client.set_registered_model_alias("captionlab-scenes", "champion", version)
    return {
        "run": f"runs:/{run}/captioner",
        "version": f"models:/captionlab-scenes/{version}",
        "alias": "models:/captionlab-scenes@champion",
        "champion": "champion",
    }


@pytest.mark.timeout(120)
def test_a_model_of_mlflow_is_opened_by_run_version_alias_or_as_champion(
    made: Path, registry: dict[str, str]
) -> None:
    theirs = Model.load(made / "model", "cpu").caption([picture(0)])[0]
    for address in registry.values():
        captioner = Captioner.load(address, device="cpu")
        assert captioner.decoding == DECODE
        assert captioner.caption(picture(0))[0].alternatives == theirs.alternatives
    for gone in ("runs:/abc/captioner", "models:/captionlab-scenes/9", "models:/gone@champion"):
        with pytest.raises(UserError, match=f"^MLflow has no model '{gone}' "):
            Captioner.load(gone)
