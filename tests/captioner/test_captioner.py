"""A model folder captions pictures as the pipeline captions their stored features."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.captioner.captioner import GREEDY, Captioner
from pipeline.captioning import split
from pipeline.captioning.captions import Caption, caption_features
from pipeline.captioning.footprint import too_large
from pipeline.captioning.split import Model, caption_split
from pipeline.core import capacity, registry
from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Decoder, Sizes
from pipeline.decoders.shared.model_folder import (
    build_decoder,
    load_model,
    read_vocabulary,
    save_model,
)
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import CaptionBatches
from pipeline.decoding.likelihood import likelihoods
from pipeline.extraction.extract import extract
from pipeline.features.store import FeatureStore
from pipeline.images.reading import ImageError
from tests.decoders.test_properties import FILES
from tests.pictures import put_pictures
from tests.tiny_lm import tiny_lm

ENCODER = {
    "model": "tf_efficientnet_lite0",
    "weights": "package",
    "image_size": 64,
    "resize": "squash",
}
ENCODERS = {"timm_model": ENCODER, "pixels": {"image_size": 3}}
# Decoders that need features of an encoder other than timm_model, and that encoder.
SEES = dict.fromkeys(("blip", "git", "vit_gpt2", "vlm", "vlm_seq2seq"), "pixels")
BEAM = {**GREEDY, "beam": 3, "max_tokens": 8, "length_penalty": 0.7, "alternatives": 2}
TEXTS = ["a red dog runs on grass", "two cats sit on a blue mat", "the ball lies near a green box"]
SMALL = {"embedding": 16, "hidden": 32, "attention": 16, "width": 16, "heads": 4, "feedforward": 32}
COUNT = 5


def picture(n: int) -> Image.Image:
    cells = np.random.default_rng(n).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((90, 70), Image.Resampling.NEAREST)


def small_args(name: str, folder: Path) -> dict[str, Any]:
    """Return arguments that make the decoder small.

    If the decoder needs a language model, it is written below `folder`.
    """
    allowed = registry.load("decoders", name).Decoder.__init__.__kwdefaults__ or {}
    lm = (
        {"lm": str(tiny_lm(folder / "lm", "gpt2", TEXTS)), "lm_weights": "random"}
        if "lm" in allowed
        else {}
    )
    return {k: v for k, v in SMALL.items() if k in allowed} | FILES.get(name, {}) | lm


def small_sizes(name: str, args: dict[str, Any]) -> Sizes:
    width = 3 if SEES.get(name) == "pixels" else 1280
    tokenizer, known = read_vocabulary(name, TEXTS, 1, args, "args")
    return Sizes(width, width, len(tokenizer), known)


def random_decoder(name: str, args: dict[str, Any]) -> Decoder:
    """Return a decoder whose weights are large enough to caption pictures differently."""
    torch.manual_seed(0)
    decoder = build_decoder(name, small_sizes(name, args), args)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return decoder.eval()


def write_model(folder: Path, name: str) -> None:
    sees = SEES.get(name, "timm_model")
    encoder, args = {"name": sees, "args": ENCODERS[sees]}, small_args(name, folder.parent)
    config = {
        "decoder": name,
        "args": args,
        "sizes": asdict(small_sizes(name, args)),
        "encoder": encoder,
    }
    save_model(
        folder, random_decoder(name, args), read_vocabulary(name, TEXTS, 1, args, "args")[0], config
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five pictures, their features and a model.

    The pictures are in raw/ and in shards/, the features of each encoder in features/. model/ names
    one of the encoders.
    """
    root = tmp_path_factory.mktemp("captioner")
    (root / "raw").mkdir()
    for n in range(COUNT):
        picture(n).save(root / f"raw/{n}.png")
    shards = put_pictures(root / "shards", {f"i{n}": picture(n) for n in range(COUNT)})
    for name, args in ENCODERS.items():
        encoder = registry.load("encoders", name).Encoder(**args)
        extract(encoder, shards, root / "features" / name, {}, "cpu", threads=1)
    encoder = registry.load("encoders", "timm_model").Encoder(**ENCODER)
    extract(encoder, shards, root / "features" / "int8", {"dtype": "int8"}, "cpu", threads=1)
    write_model(root / "model", "soft_attention")
    return root


@pytest.fixture(scope="module")
def captioner(workspace: Path) -> Captioner:
    return Captioner.load(workspace / "model", "cpu", BEAM)


def files(workspace: Path) -> list[Path]:
    return [workspace / f"raw/{n}.png" for n in range(COUNT)]


def same(ours: list[Caption], theirs: list[Caption]) -> None:
    assert [(c.text, c.tokens) for c in ours] == [(c.text, c.tokens) for c in theirs]
    assert [c.log_prob for c in ours] == pytest.approx([c.log_prob for c in theirs], abs=1e-3)
    assert [[one.text for one in c.alternatives] for c in ours] == [
        [one.text for one in c.alternatives] for c in theirs
    ]


@pytest.mark.parametrize(
    ("model", "images"), [("merge", ["i3", "i0", "i4"]), ("soft_attention", ["i1", "i2"])]
)
def test_samples_of_a_picture_are_those_of_its_stored_features_among_others(
    workspace: Path, tmp_path: Path, model: str, images: list[str]
) -> None:
    write_model(tmp_path / "model", model)
    decode = {**BEAM, "samples": 2}
    features = FeatureStore(workspace / "features/timm_model").get(images)
    tokenizer = Tokenizer.load(tmp_path / "model/tokenizer.json")
    theirs = caption_features(
        random_decoder(model, small_args(model, tmp_path)), tokenizer, features, decode
    )
    ours = Captioner.load(tmp_path / "model", "cpu", decode).caption(files(workspace))
    same([ours[int(i[1:])] for i in images], theirs)


@pytest.mark.parametrize("name", registry.names("decoders"))
def test_pictures_are_captioned_as_their_stored_features_are(
    workspace: Path, tmp_path: Path, name: str
) -> None:
    write_model(tmp_path / "model", name)
    tokenizer = Tokenizer.load(tmp_path / "model/tokenizer.json")
    features = FeatureStore(workspace / "features" / SEES.get(name, "timm_model")).get(
        [f"i{n}" for n in range(COUNT)]
    )
    theirs = caption_features(
        random_decoder(name, small_args(name, tmp_path)), tokenizer, features, BEAM
    )
    same(Captioner.load(tmp_path / "model", "cpu", BEAM).caption(files(workspace)), theirs)
    assert len({round(c.log_prob, 4) for c in theirs}) > 2  # the pictures make a difference


def test_pictures_are_captioned_as_features_in_int8_are(workspace: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model", "soft_attention")
    config = read_json(tmp_path / "model/config.json")
    config["encoder"]["dtype"] = "int8"
    write_json(tmp_path / "model/config.json", config)
    ours = Captioner.load(tmp_path / "model", "cpu", BEAM)
    features = FeatureStore(workspace / "features/int8").get([f"i{n}" for n in range(COUNT)])
    same(
        ours.caption(files(workspace)),
        caption_features(ours.decoder, ours.tokenizer, features, BEAM),
    )
    whole = FeatureStore(workspace / "features/timm_model").get(["i0"])
    assert ours.as_stored(whole).grid.sub(whole.grid).abs().max() > 0


def as_bytes(path: Path) -> bytes:
    return path.read_bytes()


def as_bitmap(path: Path) -> bytes:
    data = BytesIO()
    Image.open(path).save(data, "BMP")
    return data.getvalue()


@pytest.mark.parametrize(
    "form", [as_bytes, as_bitmap, Image.open], ids=["bytes", "bytes of another format", "PIL"]
)
def test_a_picture_may_come_as_bytes_or_opened(
    workspace: Path, captioner: Captioner, form: Callable[[Path], Any]
) -> None:
    assert captioner.caption([form(path) for path in files(workspace)]) == captioner.caption(
        files(workspace)
    )


def test_a_picture_with_a_palette_is_opened_in_colour(
    workspace: Path, captioner: Captioner
) -> None:
    image = Image.open(files(workspace)[0]).convert("P", palette=Image.Palette.ADAPTIVE)
    assert captioner.caption([image]) == captioner.caption([image.convert("RGB")])


def test_one_picture_alone_has_the_caption_it_has_among_others(
    workspace: Path, captioner: Captioner
) -> None:
    together = captioner.caption(files(workspace))
    for path, caption in zip(files(workspace), together, strict=True):
        same(captioner.caption([path]), [caption])


def test_no_picture_is_no_caption(captioner: Captioner) -> None:
    assert captioner.caption([]) == []


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "^empty file$"), (b"no picture", "^not a picture$")]
)
def test_a_broken_picture_is_an_error(
    workspace: Path, captioner: Captioner, data: bytes, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        captioner.caption([files(workspace)[0], data])


def test_a_missing_picture_is_an_error(captioner: Captioner, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^cannot be read \(No such file or directory\)$"):
        captioner.caption([tmp_path / "a.png"])


def test_decoding_is_what_the_call_or_the_folder_says_else_greedy(
    workspace: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(workspace / "model", folder)
    assert Captioner.load(folder, "cpu").decode == GREEDY
    write_json(folder / "decode.json", BEAM)
    assert Captioner.load(folder, "cpu").decode == BEAM
    other = {**BEAM, "beam": 2}
    assert Captioner.load(folder, "cpu", other).decode == other


def test_a_beam_may_be_chosen_for_one_call(workspace: Path, captioner: Captioner) -> None:
    wide = captioner.caption(files(workspace), beam=1)
    assert wide == Captioner.load(workspace / "model", "cpu", {**BEAM, "beam": 1}).caption(
        files(workspace)
    )
    assert {len(c.alternatives) for c in wide} == {1}
    assert {len(c.alternatives) for c in captioner.caption(files(workspace))} == {2}


def test_samples_may_be_drawn_for_one_call_and_a_beam_draws_none(
    workspace: Path, captioner: Captioner
) -> None:
    drawing = Captioner.load(workspace / "model", "cpu", {**BEAM, "samples": 3})
    assert captioner.caption(files(workspace), samples=3) == drawing.caption(files(workspace))
    assert captioner.caption(files(workspace), samples=3) != captioner.caption(files(workspace))
    same(drawing.caption(files(workspace), beam=3), captioner.caption(files(workspace)))
    with pytest.raises(UserError, match=r"^beam and samples exclude each other: give only one$"):
        captioner.caption(files(workspace), beam=3, samples=3)


def test_a_decode_json_of_before_there_were_samples_draws_none(
    workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace / "model", tmp_path / "copy")
    old = {"beam": 3, "max_tokens": 8, "length_penalty": 0.7, "alternatives": 2}
    write_json(tmp_path / "copy/decode.json", old)
    assert Captioner.load(tmp_path / "copy", "cpu").decode == BEAM


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r" is not a model folder: config\.json is missing \(dvc repro makes models/",
    ):
        Captioner.load(tmp_path, "cpu")


def test_a_split_is_captioned_in_the_order_of_its_image_ids(
    workspace: Path, captioner: Captioner
) -> None:
    """There are two val and two test images; i2 belongs to train."""
    split = {"i3": "val", "i0": "test", "i2": "train", "i4": "test", "i1": "val"}
    rows = [(i, f"{i}#{n}", text, s) for i, s in split.items() for n, text in enumerate(TEXTS)]
    corpus = pd.DataFrame(rows, columns=["image_id", "caption_id", "text", "split"])
    store = FeatureStore(workspace / "features/timm_model")
    model = Model(
        captioner.decoder, captioner.tokenizer, store, {**BEAM, "also": ["greedy", "beam-2"]}, "cpu"
    )
    (found,) = caption_split(model, [corpus[corpus.split == "test"]], "test")
    table = found.captions.to_pandas()
    columns = ["image_id", "split", "text", "log_prob", "tokens", "alternatives"]
    assert list(table.columns) == [*columns, "reference_nll", "reference_tokens", "top5_hits"]
    assert table[["image_id", "split"]].to_numpy().tolist() == [["i0", "test"], ["i4", "test"]]
    theirs = captioner.caption([files(workspace)[0], files(workspace)[4]])
    assert table.text.tolist() == [c.text for c in theirs]
    assert [[a["text"] for a in row] for row in table.alternatives] == [
        [one.text for one in c.alternatives] for c in theirs
    ]
    for row, tokens in zip(table.alternatives, table.tokens, strict=True):
        scores = [a["score"] for a in row]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == row[0]["log_prob"] / tokens ** BEAM["length_penalty"]
    batches = CaptionBatches([corpus[corpus.split == "test"]], store, captioner.tokenizer, 1, "cpu")
    expected = [r.reference_nll for r in likelihoods(captioner.decoder, batches)]
    assert table.reference_nll.tolist() == pytest.approx(expected, rel=1e-4)
    assert table.reference_tokens.tolist() == [23, 23]  # 6 + 7 + 7 words and three ends
    for search, beam in (("greedy", 1), ("beam-2", 2)):
        searches = found.searches.to_pandas()
        again = searches[searches.search == search]
        others = captioner.caption([files(workspace)[0], files(workspace)[4]], beam=beam)
        assert again[["image_id", "split"]].to_numpy().tolist() == [["i0", "test"], ["i4", "test"]]
        assert again.text.tolist() == [c.text for c in others]


def test_a_split_in_several_parts_is_the_same_captions(
    workspace: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"i{i}", f"i{i}#{n}", text) for i in range(COUNT) for n, text in enumerate(TEXTS)]
    corpus = pd.DataFrame(rows, columns=["image_id", "caption_id", "text"])
    store = FeatureStore(workspace / "features/timm_model")
    model = Model(
        captioner.decoder, captioner.tokenizer, store, {**BEAM, "also": ["greedy"]}, "cpu"
    )
    monkeypatch.setattr(split, "BATCH", 1)
    (whole,) = caption_split(model, [corpus], "test")
    monkeypatch.setattr(split, "PART", 2)
    parts = list(caption_split(model, [corpus], "test"))
    assert [len(part.captions) for part in parts] == [2] * (COUNT // 2) + [1] * (COUNT % 2)
    for number, table in enumerate(whole):
        assert len(table)
        assert pa.concat_tables(part[number] for part in parts).equals(table)


@torch.inference_mode()
def test_argmax_under_teacher_forcing_is_what_the_decoder_would_say_after_each_reference_prefix(
    workspace: Path, captioner: Captioner
) -> None:
    rows = [("i0", f"i0#{n}", text, "test") for n, text in enumerate(TEXTS)]
    corpus = pd.DataFrame(rows, columns=["image_id", "caption_id", "text", "split"])
    store = FeatureStore(workspace / "features/timm_model")
    model = Model(captioner.decoder, captioner.tokenizer, store, {**BEAM, "also": []}, "cpu")
    (found,) = caption_split(model, [corpus], "test")
    table = found.teacher_forced.to_pandas()
    assert table[["image_id", "split"]].to_numpy().tolist() == [["i0", "test"]] * len(TEXTS)
    known = {tuple(row.reference): list(row.argmax) for row in table.itertuples()}
    for ids in captioner.tokenizer.encode(list(TEXTS)):
        state, expected = captioner.decoder.start(store.get(["i0"], "cpu")), []
        for token in ids[:-1]:
            logits, state = captioner.decoder.step(torch.tensor([token]), state)
            expected.append(int(logits.argmax()))
        assert known[tuple(ids[1:])] == expected


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (None, r"config\.json: encoder: expected keys with values, found null: dvc checkout"),
        ({"args": {}}, r"config\.json: encoder\.name: missing"),
        ({"name": "eye", "args": {}}, "'eye'"),
        ({"name": "pixels", "args": {"image_size": "3"}}, r"encoder\.args\.image_size: .*'3'"),
        ({"name": "pixels", "args": {"side": 3}}, r"encoder\.args: unknown argument 'side'"),
    ],
)
def test_a_model_that_tells_of_no_encoder_is_one_line(
    tmp_path: Path, encoder: Any, message: str
) -> None:
    write_model(tmp_path / "model", "merge")
    config = read_json(tmp_path / "model/config.json")
    write_json(tmp_path / "model/config.json", {**config, "encoder": encoder})
    with pytest.raises(UserError, match=message) as error:
        Captioner.load(tmp_path / "model", "cpu")
    assert "\n" not in str(error.value)


def test_a_search_that_memory_cannot_hold_is_told_with_its_key(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, tokenizer, about = load_model(workspace / "model")
    store = FeatureStore(workspace / "features/timm_model")
    decoding = {**BEAM, "beam": 2, "also": ["beam-9"]}
    model = Model(decoder, tokenizer, store, decoding, "cpu")
    assert too_large("it", model, about) is None
    monkeypatch.setattr(capacity, "free_memory", lambda device: 100_000)
    problem = too_large("it", model, about)
    assert problem
    assert problem.startswith("captioning with it needs ")
    assert "this machine's free memory is 100 kB: decode.also " in problem
