"""The textbook models and beam search, with which speed is compared, compute the same results."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from benchmarks import scale, textbook
from benchmarks.training import single_captions
from pipeline.decoding.batches import CaptionBatches
from pipeline.decoding.search import beam_search
from pipeline.experiment.params import load_params
from pipeline.features.features import Features
from pipeline.sources import webdataset
from tests.decoders.test_properties import SPECIAL, features, padded_batch, small_decoder
from tests.decoding.test_batches import (  # noqa: F401  batches: a fixture
    CAPTIONS,
    NUMBER,
    batches,
    tokenizer,
)


@pytest.fixture(params=textbook.MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def losses(decoder: Any, other: Any) -> tuple[Any, Any, Any]:
    """Return our loss, and the textbook's cross-entropy and regulariser, for six captions of four
    images."""
    tokens, mask, rows = padded_batch()
    f = features()
    theirs = other.loss(Features(f.grid[rows], f.pooled[rows]), tokens, mask)
    return decoder.loss(f, tokens, mask, rows), *theirs


def test_losses_equal_the_textbooks(name: str) -> None:
    decoder = small_decoder(name)
    ours, cross_entropy, regulariser = losses(decoder, textbook.model(name, decoder))
    assert ours.cross_entropy.item() == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert sum(t.item() for t in ours.terms.values()) == pytest.approx(
        regulariser.item(), rel=1e-5, abs=1e-7
    )


def test_single_captions_are_those_of_the_batches_with_their_images(
    batches: CaptionBatches,  # noqa: F811
) -> None:
    found = [
        (f.pooled[n, 0].item(), tokenizer().decode(row[kept].tolist()))
        for f, tokens, mask in single_captions(batches)
        for n, (row, kept) in enumerate(zip(tokens, mask, strict=True))
    ]
    assert sorted(found) == sorted(
        (NUMBER[image], text) for image, texts in CAPTIONS.items() for text in texts
    )


def test_gradients_equal_the_textbooks(name: str) -> None:
    decoder = small_decoder(name).train()
    for module in decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.LSTM):
            module.dropout = 0.0
    if name == "transformer":  # Attention stores dropout as a number; only eval() disables it.
        decoder = decoder.eval()
    if name == "hard_attention":
        decoder.expected = 2.0  # Both use the expected context, without sampling.
    other = textbook.model(name, decoder)
    ours, cross_entropy, regulariser = losses(decoder, other)
    ours.total.backward(), (cross_entropy + regulariser).backward()
    theirs = dict(other.d.named_parameters())
    compared = 0
    for parameter, weight in decoder.named_parameters():
        if parameter in theirs:
            expected = theirs[parameter].grad
            assert torch.allclose(weight.grad, expected, rtol=1e-3, atol=1e-5), (
                f"{parameter}: {(weight.grad - expected).abs().max()}"
            )
            compared += 1
    assert compared > 4


@pytest.mark.parametrize("beam", [1, 4])
def test_captions_equal_those_of_a_list_of_hypotheses(name: str, beam: int) -> None:
    decoder, f = small_decoder(name), features()
    ours = beam_search(decoder, f, SPECIAL, beam, 9, 0.7)
    for n, found in enumerate(ours):
        theirs = textbook.beam_search(decoder, f.select(torch.tensor([n])), SPECIAL, beam, 9, 0.7)
        assert found[0].tokens == theirs.tokens
        assert found[0].log_prob == pytest.approx(theirs.log_prob, abs=1e-4)


@pytest.mark.parametrize("count", [*scale.SIZES, 1005])
def test_the_parameters_of_the_graph_on_growing_data_are_valid(tmp_path: Path, count: int) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(scale.params(tmp_path, count)))
    load_params(tmp_path / "params.yaml")


def test_made_up_shards_are_read_by_the_source_and_made_again_alike(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        scale.make_shards(folder, 1005)
    assert {s.name: s.read_bytes() for s in first.iterdir()} == {
        s.name: s.read_bytes() for s in second.iterdir()
    }
    webdataset.fetch(tmp_path / "raw", path=str(first))
    captions = pd.read_parquet(tmp_path / "raw/captions.parquet")
    assert captions.image_id.nunique() == len(captions) == 1005
    assert not pd.read_parquet(tmp_path / "raw/images.parquet").duplicated("image_id").any()
