"""Where decoders looked: attention maps equal the weights that the decoding steps used.

Every decoder that reads the grid is tested, and so are the words and pictures of the maps.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F

from captionlab.page.heat import overlay
from pipeline.captioning.attention import (
    COLUMNS,
    attention_maps,
    attention_rows,
    explain,
    grid_shape,
    words_of,
)
from pipeline.core import registry
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import (
    Tokenizer,
    byte_level_bpe,
    language_model_tokenizer,
    word_tokenizer,
)
from pipeline.features.features import Features
from pipeline.features.store import FeatureStore
from tests.decoders.test_properties import (
    FURTHER,
    SPECIAL,
    B,
    P,
    T,
    close,
    features,
    small_decoder,
    words,
)

EVERY = [*registry.names("decoders"), *FURTHER]


def reads_the_grid(decoder: Decoder) -> bool:
    f, tokens = features(), words(B, 2)
    return not torch.allclose(decoder(f, tokens), decoder(Features(f.grid**3, f.pooled), tokens))


# Vision-language models are left out: they merge and tile their patches, so these are no square map
# of the picture.
LOOKING = [
    name for name in EVERY if not name.startswith("vlm") and reads_the_grid(small_decoder(name))
]


@pytest.fixture(params=LOOKING)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def maps_of(decoder: Decoder, f: Features, tokens: Tensor) -> Tensor:
    found = attention_maps(decoder, f, tokens)
    assert found is not None
    return found


def captions(*shape: int) -> Tensor:
    tokens = words(*shape)
    tokens[..., 0] = SPECIAL.start
    return tokens


def test_what_reads_the_grid_looks_and_nothing_else_does() -> None:
    assert {"soft_attention", "hard_attention", "transformer", "vit_gpt2", "blip", "git"} <= set(
        LOOKING
    )
    for name in EVERY:
        decoder = small_decoder(name)
        assert name in LOOKING or not decoder.attends
        assert (attention_maps(decoder, features(), captions(B, 3)) is None) == (
            name not in LOOKING
        ), name


def test_each_word_has_shares_of_one_over_the_positions_and_they_follow_the_picture(
    name: str,
) -> None:
    """Pictures have 3 x 3 pixels; published models have patches of one pixel and a class token."""
    decoder, f, tokens = small_decoder(name), features(), captions(B, T + 1)
    maps = maps_of(decoder, f, tokens)
    assert maps.shape == (B, T, P)
    assert (maps >= 0).all()
    close(maps.sum(-1), torch.ones(B, T))
    other = maps_of(decoder, f.select(torch.tensor([1, 2, 3, 0])), tokens)
    assert ((maps - other).abs().amax((1, 2)) > 0.001).all()


def test_they_are_those_that_the_steps_of_decoding_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of a step are read from an LSTM's state, or from torch's attention otherwise."""
    decoder, f, tokens = small_decoder(name), features(), captions(B, T + 1)
    state, expected = decoder.start(f), []
    images = [
        v if k.startswith("image_keys") else v[:, 0]
        for k, v in state.items()
        if k.startswith("image")
    ]
    seen: list[Tensor] = []
    theirs = F.scaled_dot_product_attention

    def watched(
        query: Tensor, keys: Tensor, *args: Any, scale: float | None = None, **options: Any
    ) -> Tensor:
        weights = theirs(
            query,
            keys,
            torch.eye(keys.shape[2]).expand(*keys.shape[:3], -1),
            *args[1:],
            scale=scale,
            **options,
        )
        seen.extend(
            weights[..., : i.shape[2]].mean(1) for i in images if keys[:, :, : i.shape[2]].equal(i)
        )
        return theirs(query, keys, *args, scale=scale, **options)

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", watched)
        for t in range(T):
            _, state = decoder.step(tokens[:, t], state)
            expected.append(torch.stack(seen).mean(0)[:, 0, -P:] if seen else state["alpha"])
            assert len(seen) == 2 * (len(images) > 0)  # one per layer
            seen.clear()
    expected = torch.stack(expected, 1)
    close(maps_of(decoder, f, tokens), expected / expected.sum(-1, keepdim=True), 1e-6)


def test_one_caption_alone_has_the_maps_it_has_among_others_whatever_stands_after_its_end(
    name: str,
) -> None:
    decoder, f, tokens = small_decoder(name), features(), captions(B, T + 1)
    together = maps_of(decoder, f, tokens)
    alone = maps_of(decoder, f.select(torch.tensor([2])), tokens[2, :5])
    assert alone.shape == (4, P)
    close(alone, together[2, :4])


def test_no_weights_are_computed_where_nobody_asks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, tokens = small_decoder(name), captions(B, T)

    def refuse(*args: Any) -> Tensor:
        raise AssertionError("weights that nobody reads")

    module = (
        "pipeline.decoders.shared.pretrained"
        if name.split("-")[0] in ("blip", "git", "vit_gpt2")
        else "pipeline.decoders.shared.layers"
    )
    monkeypatch.setattr(f"{module}.attention_weights", refuse)
    decoder.loss(features(), tokens, torch.ones_like(tokens, dtype=torch.bool))
    decoder.step(tokens[:, 0], decoder.start(features()))
    if "alpha" not in decoder.start(features()):
        with pytest.raises(AssertionError, match="nobody reads"):
            maps_of(decoder, features(), tokens)


def test_a_model_left_in_training_is_looked_at_without_its_dropout() -> None:
    decoder, f, tokens = small_decoder("transformer").train(), features(), captions(B, T)
    assert maps_of(decoder, f, tokens).equal(maps_of(decoder, f, tokens))


def test_words_of_a_caption_stand_one_by_one() -> None:
    tokenizer = word_tokenizer(["a red dog runs"], 1)
    ids = tokenizer.encode(["a dog runs"])[0]
    assert words_of(tokenizer, ids) == ["<start>", "a", "dog", "runs", "<end>"]


def test_pieces_of_a_word_stand_as_their_tokenizer_writes_them() -> None:
    inner = Inner(
        models.WordPiece({"[UNK]": 0, "a": 1, "run": 2, "##ning": 3, "[SEP]": 4}, unk_token="[UNK]")
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer = language_model_tokenizer(inner, "[SEP]")
    assert words_of(tokenizer, tokenizer.encode(["a running"])[0][1:-1]) == ["a", "run", "##ning"]
    tokenizer = language_model_tokenizer(
        byte_level_bpe(["a red dog"] * 3, 280, "<|endoftext|>"), "<|endoftext|>"
    )
    assert words_of(tokenizer, tokenizer.encode(["a red dog"])[0][1:-1]) == ["a", "red", "dog"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return word_tokenizer([" ".join(f"word{n}" for n in range(19))], 1)


def stored(folder: Path, grid: Tensor, **seen: bool) -> FeatureStore:
    folder.mkdir()
    np.save(folder / "grid-00000.npy", grid.half().numpy())
    np.save(folder / "pooled-00000.npy", features().pooled.half().numpy())
    pd.DataFrame({"image_id": list("abcd"), "row": range(4)}).to_parquet(folder / "ids.parquet")
    write_json(folder / "manifest.json", {"crops": False, **seen})
    return FeatureStore(folder)


def test_rows_tell_of_each_word_where_it_looked(tmp_path: Path, tokenizer: Tokenizer) -> None:
    decoder, store = (
        small_decoder("soft_attention"),
        stored(tmp_path / "f", features().grid, crops=True),
    )
    table = attention_rows(
        decoder, tokenizer, store, ["c", "a", "b"], ["word4 word2", "", "word1 word2 word3"], "cpu"
    )
    assert list(table.columns) == COLUMNS
    said = [
        ("c", 0, "word4"),
        ("c", 1, "word2"),
        ("b", 0, "word1"),
        ("b", 1, "word2"),
        ("b", 2, "word3"),
    ]
    assert list(zip(table.image_id, table.position, table.word, strict=True)) == said
    seen = zip(table.rows, table["columns"], table.crops, table.pads, strict=True)
    assert set(seen) == {(3, 3, True, False)}
    tokens = torch.tensor(tokenizer.encode(["word1 word2 word3"])[0][:-1])
    expected = maps_of(decoder, store.get(["b"]), tokens)
    assert [weights.tolist() for weights in table.weights[2:]] == expected.numpy().round(5).tolist()


def test_rows_tell_that_the_picture_lay_in_a_filled_square(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    store = stored(tmp_path / "f", features().grid, pads=True)
    decoder = small_decoder("soft_attention")
    table = attention_rows(decoder, tokenizer, store, ["a"], ["word4 word2"], "cpu")
    assert set(zip(table.crops, table.pads, strict=True)) == {(False, True)}


def test_two_runs_store_the_same_bytes_and_a_row_depends_on_no_other_image(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    decoder, store = small_decoder("transformer"), stored(tmp_path / "f", features().grid)
    said = {"a": "word1 word5", "b": "word7", "d": "word2 word2 word9"}
    first, second = (
        attention_rows(decoder, tokenizer, store, [*said], [*said.values()], "cpu")
        for _ in range(2)
    )
    assert as_parquet(first) == as_parquet(second)
    alone = attention_rows(decoder, tokenizer, store, ["d"], [said["d"]], "cpu")
    assert as_parquet(alone) == as_parquet(first[first.image_id == "d"].reset_index(drop=True))
    assert pd.read_parquet(BytesIO(as_parquet(first))).weights[0].dtype == np.float32


def as_parquet(table: pd.DataFrame) -> bytes:
    return bytes(table.to_parquet(index=False))


def test_a_decoder_that_does_not_look_and_a_grid_that_is_no_square_have_no_rows(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    square, strip = (
        stored(tmp_path / "f", features().grid),
        stored(tmp_path / "g", features().grid[:, :7]),
    )
    blind, looks = small_decoder("merge"), small_decoder("soft_attention")
    for decoder, store in ((blind, square), (looks, strip)):
        table = attention_rows(decoder, tokenizer, store, ["a"], ["word1"], "cpu")
        assert list(table.columns) == COLUMNS
        assert table.empty
    assert len(explain(looks, tokenizer, strip.get(["a"]), "word1")[0][1]) == 7
    assert explain(blind, tokenizer, square.get(["a"]), "word1") == []


@pytest.mark.parametrize(
    ("positions", "shape"),
    [(49, (7, 7)), (576, (24, 24)), (4, (2, 2)), (50, None), (1, None), (0, None)],
)
def test_a_grid_is_a_square_or_has_no_place_in_the_picture(
    positions: int, shape: tuple[int, int] | None
) -> None:
    assert grid_shape(positions) == shape


def lit(picture: Image.Image) -> np.ndarray:
    """Return the brightness of the quarters of a picture, (2, 2)."""
    return np.asarray(picture.convert("L").resize((2, 2), Image.Resampling.BOX), np.float32)


@pytest.mark.parametrize("position", range(4))
def test_a_picture_is_brightest_where_the_decoder_looked_at(position: int) -> None:
    weights = [0.1, 0.1, 0.1, 0.1]
    weights[position] = 0.7
    shown = overlay(Image.new("RGB", (400, 200), "grey"), weights, (2, 2))
    assert shown.size == (160, 80)
    assert lit(shown).argmax() == position


def test_an_even_map_is_even_and_a_common_top_compares_words() -> None:
    grey = Image.new("RGB", (50, 50), "grey")
    even = overlay(grey, [0.25] * 4, (2, 2))
    assert len(even.getcolors() or []) == 1
    assert lit(overlay(grey, [0.25] * 4, (2, 2), top=0.9)).max() < lit(even).min()
    assert overlay(grey, [0.0] * 4, (2, 2)).size == (160, 160)


def test_where_the_encoder_saw_the_centre_square_that_is_shown() -> None:
    """The white sides of the picture lie outside the square."""
    wide = Image.new("RGB", (300, 100), "white")
    wide.paste(Image.new("RGB", (100, 100), "black"), (100, 0))
    none = [0.0] * 4
    shown = overlay(wide, none, (2, 2), crops=True, side=100)
    assert shown.size == (100, 100)
    assert shown.getextrema() == overlay(Image.new("RGB", (9, 9)), none, (2, 2)).getextrema()
    assert overlay(wide, none, (2, 2), side=300).size == (300, 100)


def test_where_the_encoder_saw_a_filled_square_the_heat_of_what_was_filled_is_not_shown() -> None:
    """The upper half of the square is bright; of the picture, whose middle half it is, the upper
    half is."""
    wide = Image.new("RGB", (320, 160), "grey")
    upper = [1.0] * 8 + [0.0] * 8
    shown = overlay(wide, upper, (4, 4), pads=True)
    assert shown.size == (160, 80)
    square = overlay(Image.new("RGB", (320, 320), "grey"), upper, (4, 4))
    assert shown.tobytes() == square.crop((0, 40, 160, 120)).tobytes()
