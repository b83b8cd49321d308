"""Batches: which image a caption row points at, their order, and likelihoods summed over them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.data.files import write_json
from pipeline.decoders.shared.tokenizers import Tokenizer, word_tokenizer
from pipeline.decoding.batches import Batch, CaptionBatches, pad_rows
from pipeline.decoding.likelihood import likelihoods, mean_loss
from pipeline.features.store import FeatureStore
from tests.decoders.test_properties import DP, D, P, small_decoder

CAPTIONS = {
    "bear": ["a bear sits", "the bear"],
    "cat": ["a cat", "the cat runs on grass", "cat"],
    "dog": ["a dog runs"],
    "emu": ["an emu", "the emu sits on grass"],
    "fox": ["a fox sits on the grass"],
    "gnu": ["the gnu runs", "a gnu", "gnu on grass"],
    "hen": ["a hen"],
}
# Row of each image in the feature arrays; the number is also its only feature. Row 4 belongs to an
# image that was set aside.
NUMBER = {"hen": 0, "bear": 1, "gnu": 2, "cat": 3, "emu": 5, "dog": 6, "fox": 7}


def captions() -> pd.DataFrame:
    """Return the captions in random order, because a corpus file need not be sorted."""
    rows = [(i, f"{i}#{n}", text) for i, texts in CAPTIONS.items() for n, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["image_id", "caption_id", "text"]).sample(
        frac=1, random_state=3
    )


def tokenizer() -> Tokenizer:
    return word_tokenizer([t for texts in CAPTIONS.values() for t in texts], 1)


def write_store(folder: Path, grid: np.ndarray, pooled: np.ndarray) -> FeatureStore:
    """Write a features folder whose rows belong to the images of NUMBER, and return its store."""
    folder.mkdir()
    np.save(folder / "grid-00000.npy", grid.astype(np.float16))
    np.save(folder / "pooled-00000.npy", pooled.astype(np.float16))
    pd.DataFrame({"image_id": list(NUMBER), "row": list(NUMBER.values())}).to_parquet(
        folder / "ids.parquet"
    )
    write_json(folder / "manifest.json", {})
    return FeatureStore(folder)


@pytest.fixture
def batches(tmp_path: Path) -> CaptionBatches:
    number = np.arange(8.0)
    store = write_store(tmp_path / "f", number[:, None, None] + [[100], [200]], number[:, None])
    return CaptionBatches([captions()], store, tokenizer(), 3, "cpu")


def seen(epoch: "list[Batch]") -> list[tuple[str, str]]:
    """Return (image_id, caption) of every row of every batch.

    The image is found by the feature that the row points at.
    """
    names, words = {n: i for i, n in NUMBER.items()}, tokenizer()
    return [
        (names[int(batch.features.pooled[image, 0])], words.decode(ids))
        for batch in epoch
        for image, ids in zip(batch.rows.tolist(), batch.tokens.tolist(), strict=True)
    ]


def equal(ours: Batch, theirs: Batch) -> bool:
    same_rows = torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.rows, theirs.rows)
    return ours.image_ids == theirs.image_ids and same_rows


def test_every_caption_comes_once_an_epoch_with_the_features_of_its_own_image(
    batches: CaptionBatches,
) -> None:
    expected = sorted((i, text) for i, texts in CAPTIONS.items() for text in texts)
    assert sorted(seen(list(batches.epoch(1, 0)))) == expected
    assert sorted(seen(list(batches.in_order()))) == expected


def test_it_makes_no_difference_in_how_many_tables_captions_come(batches: CaptionBatches) -> None:
    rows = captions()
    tables = [rows.iloc[:5], rows.iloc[5:5], rows.iloc[5:6], rows.iloc[6:]]
    parts = CaptionBatches(tables, batches.store, tokenizer(), 3, "cpu")
    assert all(equal(*pair) for pair in zip(parts.epoch(1, 0), batches.epoch(1, 0), strict=True))


def test_grid_and_pooled_features_stand_in_the_order_of_the_image_ids(
    batches: CaptionBatches,
) -> None:
    for batch in batches.epoch(1, 0):
        numbers = [NUMBER[i] for i in batch.image_ids]
        assert batch.features.pooled[:, 0].tolist() == numbers
        assert batch.features.grid[:, :, 0].tolist() == [[n + 100, n + 200] for n in numbers]
        assert batch.features.grid.dtype == batch.features.pooled.dtype == torch.float32


def test_a_batch_has_so_many_images_and_the_last_the_rest(batches: CaptionBatches) -> None:
    assert [len(b.image_ids) for b in batches.epoch(1, 0)] == [3, 3, 1]
    assert len(batches) == 3


def test_one_seed_and_epoch_is_one_order(batches: CaptionBatches) -> None:
    first, second = list(batches.epoch(1, 4)), list(batches.epoch(1, 4))
    assert all(map(equal, first, second))


@pytest.mark.parametrize(("seed", "epoch"), [(1, 5), (2, 4), (4, 1)])
def test_another_seed_or_epoch_is_another_order(
    batches: CaptionBatches, seed: int, epoch: int
) -> None:
    def order(s: int, e: int) -> list[str]:
        return [i for batch in batches.epoch(s, e) for i in batch.image_ids]

    assert order(seed, epoch) != order(1, 4)
    assert sorted(order(seed, epoch)) == sorted(NUMBER)


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_skipping_batches_gives_the_tail_of_the_epoch(batches: CaptionBatches, skip: int) -> None:
    whole, tail = list(batches.epoch(7, 2))[skip:], list(batches.epoch(7, 2, skip=skip))
    assert len(whole) == len(tail) == 3 - skip
    assert all(map(equal, whole, tail))


def test_batches_that_are_read_ahead_are_the_same_batches(batches: CaptionBatches) -> None:
    whole = list(batches.epoch(7, 2))
    batches.device = "cpu:0"  # treated like any device except cpu
    assert all(map(equal, whole, list(batches.epoch(7, 2))))
    assert [b.image_ids for b in batches.epoch(7, 2, skip=2)] == [whole[2].image_ids]
    assert list(batches.epoch(7, 2, skip=3)) == []
    next(batches.epoch(7, 2))  # the rest is never asked for


def test_in_order_is_by_image_id_and_caption_id(batches: CaptionBatches) -> None:
    assert [b.image_ids for b in batches.in_order()] == [
        ["bear", "cat", "dog"],
        ["emu", "fox", "gnu"],
        ["hen"],
    ]
    assert seen(list(batches.in_order())) == [
        (i, text) for i, texts in CAPTIONS.items() for text in texts
    ]


def test_rows_are_start_words_end_padding_and_the_mask_leaves_out_padding(tmp_path: Path) -> None:
    store = write_store(tmp_path / "f", np.zeros((8, 1, 1)), np.zeros((8, 1)))
    words = word_tokenizer(["a a a cat cat dog"], 1)  # a 4, cat 5, dog 6
    rows = [("dog", "d#1", "a"), ("cat", "c#0", "a red cat"), ("dog", "d#0", "dog a")]
    frame = pd.DataFrame(rows, columns=["image_id", "caption_id", "text"])
    (batch,) = CaptionBatches([frame], store, words, 8, "cpu").in_order()
    assert batch.image_ids == ["cat", "dog"]
    assert batch.tokens.tolist() == [[1, 4, 3, 5, 2], [1, 6, 4, 2, 0], [1, 4, 2, 0, 0]]
    assert batch.mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert batch.rows.tolist() == [0, 1, 1]


@pytest.mark.parametrize("many", [200, 300, 70_000])
def test_token_ids_of_any_vocabulary_are_kept(tmp_path: Path, many: int) -> None:
    words = [f"w{n:05}" for n in range(many)]
    counted = word_tokenizer(words, 1)
    frame = pd.DataFrame(
        {"image_id": "cat", "caption_id": ["c#0"], "text": [f"{words[0]} {words[-1]}"]}
    )
    store = write_store(tmp_path / "f", np.zeros((8, 1, 1)), np.zeros((8, 1)))
    (batch,) = CaptionBatches([frame], store, counted, 8, "cpu").in_order()
    assert batch.tokens.tolist() == [[1, 4, many + 3, 2]]


def test_ragged_rows_are_filled_with_the_pad_id() -> None:
    tokens, mask = pad_rows([np.array([7]), np.array([8, 9, 9])], pad=5)
    assert tokens.tolist() == [[7, 5, 5], [8, 9, 9]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]


def test_a_store_names_the_first_image_without_features(tmp_path: Path) -> None:
    store = write_store(tmp_path / "f", np.zeros((8, 1, 1)), np.zeros((8, 1)))
    store.check(list(NUMBER), "features 'x'")
    message = (
        r"^features 'x': 2 images have no features \(first: owl\): see rejected.parquet there$"
    )
    with pytest.raises(UserError, match=message):
        store.check(["cat", "owl", "yak"], "features 'x'")


@pytest.fixture(params=registry.names("decoders"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def deep(tmp_path: Path) -> CaptionBatches:
    """Batches whose features fit `small_decoder`."""
    rng = np.random.default_rng(0)
    store = write_store(tmp_path / "f", rng.normal(size=(8, P, D)), rng.normal(size=(8, DP)))
    return CaptionBatches([captions()], store, tokenizer(), 3, "cpu")


def test_a_likelihood_is_the_sum_of_log_probabilities_of_an_images_references(
    name: str, deep: CaptionBatches
) -> None:
    decoder, words = small_decoder(name, vocabulary=len(tokenizer())), tokenizer()
    ours = {r.image_id: r for r in likelihoods(decoder, deep)}
    for image_id, texts in CAPTIONS.items():
        nll, tokens, hits = 0.0, 0, 0
        for ids in words.encode(texts):
            log_probs = decoder(deep.store.get([image_id]), torch.tensor([ids[:-1]]))[
                0
            ].log_softmax(-1)
            for place, word in enumerate(ids[1:]):
                nll -= log_probs[place, word].item()
                tokens += 1
                hits += word in log_probs[place].argsort(descending=True)[:5].tolist()
        assert (ours[image_id].reference_tokens, ours[image_id].top5_hits) == (tokens, hits)
        assert ours[image_id].reference_nll == pytest.approx(nll, rel=1e-5)
    assert [r.image_id for r in likelihoods(decoder, deep)] == sorted(CAPTIONS)


def test_a_likelihood_counts_words_and_end_but_neither_start_nor_padding(
    name: str, deep: CaptionBatches
) -> None:
    decoder = small_decoder(name, vocabulary=len(tokenizer()))
    counts = {r.image_id: r.reference_tokens for r in likelihoods(decoder, deep)}
    assert counts == {"bear": 7, "cat": 11, "dog": 4, "emu": 9, "fox": 7, "gnu": 11, "hen": 3}


def test_a_likelihood_knows_no_dropout(name: str, deep: CaptionBatches) -> None:
    decoder = small_decoder(name, vocabulary=len(tokenizer())).train()
    assert list(likelihoods(decoder, deep)) == list(likelihoods(decoder.train(), deep))


def test_the_mean_loss_is_per_token_over_the_whole_split_however_it_is_batched(
    name: str, deep: CaptionBatches
) -> None:
    decoder = small_decoder(name, vocabulary=len(tokenizer()))
    (whole,) = CaptionBatches([captions()], deep.store, tokenizer(), 7, "cpu").in_order()
    loss = decoder.loss(whole.features, whole.tokens, whole.mask, whole.rows)
    assert loss.tokens == 52
    assert mean_loss(decoder, deep) == pytest.approx(loss.cross_entropy.item(), rel=1e-5)
