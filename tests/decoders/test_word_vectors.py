"""Pretrained word vectors, and decoders whose parameter counts were published."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Decoder, Sizes
from pipeline.decoders.shared.model_folder import build_decoder
from pipeline.decoders.shared.tokenizers import Tokenizer, word_tokenizer
from pipeline.decoders.shared.word_vectors import fill_embedding, read_vectors


@pytest.fixture
def tokenizer() -> Tokenizer:
    return word_tokenizer(["a dog runs", "a red frisbee"], 1)


def glove(folder: Path, text: str) -> str:
    path = folder / "glove.txt"
    path.write_text(text)
    return str(path)


FILE = "the 9 9\na 1 -1\ndog 2 0.5\n. . 7 7\nruns 3 1e-2\ndog 8 8\n"


def test_words_get_their_vectors_and_the_others_ones_of_the_same_spread(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    embedding = nn.Embedding(len(tokenizer), 2)
    torch.manual_seed(0)
    assert fill_embedding(embedding, tokenizer, glove(tmp_path, FILE), tune=True) == 3
    ids = tokenizer.words()
    assert embedding.weight[[ids["a"], ids["dog"], ids["runs"]]].tolist() == [
        [1, -1],
        [2, 0.5],
        [3, pytest.approx(0.01)],
    ]
    unknown = embedding.weight[[ids["frisbee"], ids["red"]]]
    # The known vectors have mean 2 and standard deviation 1 in this column.
    assert (unknown[:, 0] - 2).abs().max() < 4
    assert embedding.weight.requires_grad


def test_frozen_vectors_stay_as_they_are(tmp_path: Path, tokenizer: Tokenizer) -> None:
    args = {"embedding": 2, "hidden": 4, "vectors": glove(tmp_path, FILE), "tune_vectors": False}
    for name in ("merge", "lstm"):
        decoder = build_decoder(name, Sizes(3, 3, len(tokenizer)), args)
        decoder.load_pretrained(tokenizer)
        assert not decoder.embedding.weight.requires_grad
        assert decoder.embedding.weight[tokenizer.words()["a"]].tolist() == [1, -1]


def test_a_word_with_spaces_is_one_word(tmp_path: Path) -> None:
    found = read_vectors(Path(glove(tmp_path, ". . 7 8\n")), {". .": 5}, 2)
    assert {i: v.tolist() for i, v in found.items()} == {5: [7, 8]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\ndog 3\n", r"line 2: expected a word and 2 numbers \(args\.embedding\): 'dog 3"),
        ("a 1 2 3\n", r"line 1: expected a word and 2 numbers"),
        ("a 1 x\n", r"line 1: could not convert string to float: 'x': the file is damaged"),
        ("zebra 1 2\n", "contains none of the captions' words"),
    ],
)
def test_a_faulty_file_is_one_line(
    tmp_path: Path, tokenizer: Tokenizer, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fill_embedding(nn.Embedding(len(tokenizer), 2), tokenizer, glove(tmp_path, text), tune=True)


def test_a_missing_file_is_one_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        UserError, match="word vectors /nowhere/glove: No such file or directory; unpack GloVe"
    ):
        fill_embedding(nn.Embedding(len(tokenizer), 2), tokenizer, "/nowhere/glove", tune=True)


def parameters(decoder: Decoder) -> int:
    return sum(p.numel() for p in decoder.parameters())


def test_the_cnn_lstm_of_sat_flickr8k_has_its_published_parameter_count() -> None:
    args = {"embedding": 256, "hidden": 256, "layers": 2, "dropout": 0.3}
    count = parameters(build_decoder("lstm", Sizes(2048, 2048, 7698), args))
    # Image 2048*256+256, words 7698*256, LSTM 2 * 4 * (256*256 + 256*256 + 2*256), output
    # 256*7698+7698.
    assert count == 524_544 + 1_970_688 + 1_052_672 + 1_978_386
    # Published as 5.52 M: 5.526 was truncated, not rounded.
    assert f"{count / 1e6:.3f}".startswith("5.52")


def test_the_attention_model_of_sat_flickr8k_has_its_published_parameter_count() -> None:
    args = {"embedding": 512, "hidden": 512, "attention": 256, "dropout": 0.5}
    assert (
        f"{parameters(build_decoder('soft_attention', Sizes(2048, 2048, 8911), args)) / 1e6:.2f}"
        == "19.23"
    )


def test_the_merge_model_has_the_parameters_of_its_keras_layers() -> None:
    args = {"embedding": 50, "hidden": 256, "dropout": 0.3}
    count = parameters(build_decoder("merge", Sizes(2048, 2048, 1848), args))
    dense, embedding, merged, output = (
        2048 * 256 + 256,
        1848 * 50,
        256 * 256 + 256,
        256 * 1848 + 1848,
    )
    lstm = 4 * 256 * (50 + 256 + 1)  # Keras has one bias per gate, torch two
    assert count == dense + embedding + lstm + 4 * 256 + merged + output
