"""CLIPScore and RefCLIPScore equal those computed by hand with transformers' CLIP.

The latter takes one image and one text at a time.
"""

import io
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipeline.core import paths
from pipeline.core.errors import UserError
from pipeline.core.registry import load, names
from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.data.shards import Member, Shards
from pipeline.images.reading import read_image
from pipeline.metrics import clip_score
from pipeline.metrics.shared.base import Candidates, References, Scores, Unavailable
from pipeline.results.scores import ScoreTable
from pipeline.scoring.variant import NO_SEARCH, pictures_needed
from stages import baseline, score
from tests.encoders.test_clip import published
from tests.encoders.test_properties import MODELS, noise
from tests.pictures import exchange, put_pictures
from tests.workspace import ROOT, tiny_params, write_params

# More than one batch of pictures. The last text is longer than the model reads.
SAID = ["a dog", "", "naïve 犬", "a dog", "the man 's hat", "word " * 30] * 7
CANDIDATES: Candidates = {f"i{n:02}": text for n, text in enumerate(SAID)}
REFERENCES: References = {
    f"i{n:02}": [f"{text} runs {n % 3}", "a cat", text][: 1 + n % 3] for n, text in enumerate(SAID)
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    published("clip", folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Member]:
    drawn = {
        image: noise(80 + 20 * (n % 5), 300 - 20 * (n % 7), seed=n)
        for n, image in enumerate(CANDIDATES)
    }
    return put_pictures(tmp_path_factory.mktemp("pictures"), drawn).find(CANDIDATES)


@pytest.fixture(scope="module")
def scores(model: Path, images: dict[str, Member]) -> Scores:
    return clip_score.score(CANDIDATES, REFERENCES, images, {"model": str(model)})


class ByHand:
    """Embeds one picture or one text at a time, without padding."""

    def __init__(self, model: Path):
        self.clip = CLIPModel.from_pretrained(model).eval()
        self.processor = CLIPImageProcessorPil.from_pretrained(model)
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    @torch.inference_mode()
    def picture(self, member: Member) -> Any:
        image = Image.open(io.BytesIO(member.read())).convert("RGB")
        pixels = self.processor(image, return_tensors="pt").pixel_values
        return self.unit(self.clip.get_image_features(pixel_values=pixels).pooler_output)

    @torch.inference_mode()
    def text(self, text: str) -> Any:
        tokens = self.tokenizer(
            "A photo depicts " + text, return_tensors="pt", truncation=True, max_length=20
        )
        return self.unit(self.clip.get_text_features(**tokens).pooler_output)

    def unit(self, embedding: torch.Tensor) -> Any:
        x = embedding[0].double().numpy()
        return x / np.linalg.norm(x)


def test_both_scores_are_those_of_the_paper(
    model: Path, images: dict[str, Member], scores: Scores
) -> None:
    hand, expected = ByHand(model), {"clip_score": {}, "ref_clip_score": {}}
    for image, caption in CANDIDATES.items():
        said = hand.text(caption)
        fit = 2.5 * max(hand.picture(images[image]) @ said, 0)
        near = max(0, *(said @ hand.text(reference) for reference in REFERENCES[image]))
        expected["clip_score"][image] = fit
        expected["ref_clip_score"][image] = 2 / (1 / fit + 1 / near) if fit and near else 0
    assert scores.per_image["clip_score"] == pytest.approx(expected["clip_score"], abs=1e-5)
    assert scores.per_image["ref_clip_score"] == pytest.approx(expected["ref_clip_score"], abs=1e-5)
    assert scores.corpus == pytest.approx(
        {name: np.mean(list(row.values())) for name, row in expected.items()}, abs=1e-5
    )
    assert len(set(scores.per_image["clip_score"].values())) > 30


def test_a_caption_that_points_away_from_its_picture_has_nothing_and_never_less(
    model: Path, images: dict[str, Member], tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "turned")
    turned = CLIPModel.from_pretrained(model)
    with torch.no_grad():
        turned.visual_projection.weight.neg_()
    turned.save_pretrained(tmp_path / "turned")
    scores = clip_score.score(CANDIDATES, REFERENCES, images, {"model": str(tmp_path / "turned")})
    assert scores.corpus == {"clip_score": 0, "ref_clip_score": 0}


def test_a_resample_is_scored_from_its_sums(scores: Scores) -> None:
    assert scores.sums is not None
    counts = np.arange(len(CANDIDATES)) % 3
    drawn = scores.sums.score(counts @ scores.sums.statistics)
    for name, row in scores.per_image.items():
        assert drawn[name] == pytest.approx(np.average(list(row.values()), weights=counts))


def test_the_pictures_of_ten_variants_are_seen_once_and_a_changed_one_again(
    model: Path,
    images: dict[str, Member],
    scores: Scores,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    seen: list[bytes] = []

    def noted(content: bytes) -> Any:
        seen.append(content)
        return read_image(content)

    monkeypatch.setattr("pipeline.images.reading.read_image", noted)
    drawn = {image: member.read() for image, member in images.items()}
    files = put_pictures(tmp_path, drawn).find(CANDIDATES)
    other = dict.fromkeys(CANDIDATES, "a boat")
    for said in (CANDIDATES, other, CANDIDATES):
        again = clip_score.score(said, REFERENCES, files, {"model": str(model)})
    assert sorted(seen) == sorted(drawn.values())
    assert again == scores
    exchange(tmp_path, i03=noise(60, 60, seed=99))
    files = Shards(tmp_path).find(CANDIDATES)
    changed = clip_score.score(CANDIDATES, REFERENCES, files, {"model": str(model)}).per_image[
        "clip_score"
    ]
    assert [
        i
        for i in CANDIDATES
        if changed[i] != pytest.approx(scores.per_image["clip_score"][i], abs=1e-6)
    ] == ["i03"]


def test_without_pictures_a_model_or_its_weights_it_is_unavailable_and_says_what_to_do(
    images: dict[str, Member],
) -> None:
    known = "openai/clip-vit-base-patch32"
    for arguments, reason in [
        ((), "^CLIPScore needs the pictures: captions and references alone were given$"),
        ((images, None), rf"^no CLIP is named: name one in params\.yaml, scoring\.clip: \{{model: "
        rf"{known}\}}$"),
        ((images, {"model": known}), f"^'{known}' cannot be used .*: put it in the hub's cache"),
        ((images, {"model": "/no/such/folder"}), "^model '/no/such/folder': no such folder"),
    ]:  # fmt: skip
        with pytest.raises(Unavailable, match=reason):
            clip_score.score(CANDIDATES, REFERENCES, *arguments)


def test_a_missing_or_broken_picture_and_another_kind_of_model_are_one_line(
    model: Path, images: dict[str, Member], tmp_path: Path
) -> None:
    broken = put_pictures(tmp_path, {"i00": images["i00"].read()[:200]}).find(["i00"])
    gone = {"i00": broken["i00"]._replace(shard=tmp_path / "no.tar")}
    for files, arguments, message in [
        ({}, {"model": str(model)}, "^image 'i00' has a caption and no picture: "),
        (gone, {"model": str(model)}, r"no\.tar: the picture of 'i00' "
        r"cannot "
        r"be read \(No such file"),
        (broken, {"model": str(model)}, r"'i00' in .*\.tar: (broken|truncated).*: CLIPScore "
        r"needs the picture"),
        (images, {"model": str(MODELS / "siglip"), "weights": "random"}, "is of type siglip: "
        "CLIPScore "
        "is "
        "defined by CLIP$"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            clip_score.score({"i00": "a dog"}, REFERENCES, files, arguments)


def test_no_captions_have_no_score(model: Path) -> None:
    scores = clip_score.score({}, {}, {}, {"model": str(model)})
    assert (scores.corpus, scores.per_image) == ({}, {"clip_score": {}, "ref_clip_score": {}})


@pytest.mark.parametrize("name", names("metrics"))
def test_the_pictures_of_a_corpus_are_looked_up_for_a_metric_that_takes_them(
    name: str, tmp_path: Path
) -> None:
    takes_pictures = "images" in signature(load("metrics", name).score).parameters
    captions, raw = tmp_path / "captions.parquet", tmp_path / "raw"
    pd.DataFrame({"image_id": ["a", "a", "b"]}).to_parquet(captions)
    found = put_pictures(raw, dict.fromkeys("abc", b"")).find(["a", "b"])
    assert list(found) == ["a", "b"]
    assert pictures_needed(["bleu", name], captions, raw) == (found if takes_pictures else {})


@pytest.mark.usefixtures("restore_java")
def test_a_variant_and_the_baseline_beside_it_say_which_clip_judged_them(
    model: Path, images: dict[str, Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_params()
    params["scoring"] |= {"metrics": ["clip_score"], "clip": {"model": str(model)}, "protocols": []}
    write_params(tmp_path, params)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    put_pictures(paths.RAW / "scenes", {i: images[f"i0{n}"].read() for n, i in enumerate("abc")})
    for folder in (paths.CORPORA / "scenes", paths.CAPTIONS / "merge"):
        folder.mkdir(parents=True)
    captions = pd.DataFrame(
        {"image_id": list("abc"), "text": "a dog", "split": ["train", "val", "test"]}
    )
    captions.to_parquet(paths.CORPORA / "scenes/captions.parquet")
    for file in (paths.references, paths.published):
        write_json(file("scenes"), {"b": ["a dog"], "c": ["a cat"]})
    write_json(paths.training_captions("scenes"), ["a dog"])
    baseline.main("scenes")
    said = pd.read_parquet(paths.captions("most-frequent--scenes"))
    tables = (said, NO_SEARCH, said.assign(seed=2).iloc[:0])
    for file, table in zip(
        (paths.captions, paths.searches, paths.seed_captions), tables, strict=True
    ):
        table.to_parquet(file("merge"))
    score.main("merge")
    both = ("most-frequent--scenes", "merge")
    rows = [read_json(paths.SCORES / name / "about.json") for name in both]
    told = {"clip": str(model), "commit": None, "unavailable": {}}
    assert rows == [told, {**told, "seeds": 1}]
    first, second = (
        ScoreTable.read(paths.SCORES / name / "scores.csv").value("test", "clip_score")
        for name in both
    )
    assert first is not None
    assert first == second > 0
