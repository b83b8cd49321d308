"""Which test images the page shows, and how the attention of a word becomes digits."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.report.attention import attention_views, heat
from pipeline.report.gallery import Corpus, best_and_worst, disagreements, extremes_of, thumbnail
from tests.pictures import put_pictures


def ciders(**by_image):
    return pd.Series(by_image, dtype=float)


def test_of_equal_scores_the_first_ids_are_shown_and_no_image_is_best_and_worst():
    scores = ciders(a=0.5, b=2.0, c=0.0, d=0.5, e=0.0)
    assert best_and_worst(scores, 2) == (["b", "a"], ["c", "e"])
    assert best_and_worst(scores, 4) == (["b", "a", "d", "c"], ["e"])
    assert best_and_worst(scores[:1], 3) == (["a"], [])


def test_two_variants_disagree_most_where_their_scores_lie_farthest_apart_either_way():
    one, other = ciders(a=1.0, b=0.0, c=3.0, d=0.2, e=1.0), ciders(a=1.0, b=2.5, c=1.0, d=0.1)
    assert disagreements(one, other, 2) == ["b", "c"]
    assert disagreements(one, other, 9) == ["b", "c", "d"]
    assert disagreements(one, one, 3) == []


@pytest.mark.parametrize(("variants", "each"), [(1, 3), (13, 3), (14, 2), (20, 2), (90, 1)])
def test_many_variants_show_fewer_extremes_each(variants, each):
    assert extremes_of(variants) == each


def test_a_thumbnail_is_small_and_keeps_its_shape(tmp_path):
    Image.new("RGB", (1024, 512)).save(tmp_path / "wide.png")
    data, width, height = thumbnail(tmp_path / "wide.png")
    assert (width, height) == (256, 128)
    assert data.startswith("data:image/jpeg;base64,")


def test_heat_is_nothing_up_to_an_even_map_and_full_at_the_peak():
    assert heat(np.array([0.25, 0.25, 0.25, 0.25])) == "00000000"
    assert heat(np.array([0.0, 0.75, 0.25, 0.0])) == "00990000"
    # 2.5 and 1.5 times an even map, on a scale from 1 to 3.
    assert heat(np.array([0.0, 0.625, 0.375, 0.0])) == "00742500"
    assert heat(np.array([0.5, 0.4, 0.1, 0.0])) == "50300000"


def test_noise_on_an_even_map_stays_pale():
    weights = np.full(49, 1 / 49) + np.tile([0.001, -0.001], 25)[:49]
    assert max(int(digits) for digits in [heat(weights)[i : i + 2] for i in range(0, 98, 2)]) <= 3


def attention(images, words, sharp):
    weights = np.array([1.0, 0.0, 0.0, 0.0] if sharp else [0.3, 0.3, 0.2, 0.2])
    rows = [
        (f"i{n}", k, f"word{k}", weights, 2, 2, False, False)
        for n in range(images)
        for k in range(words)
    ][::-1]
    return pd.DataFrame(
        rows,
        columns=["image_id", "position", "word", "weights", "rows", "columns", "crops", "pads"],
    )


@pytest.fixture
def corpus(tmp_path):
    rows = [(f"i{n}", f"picture {n}", "test") for n in range(6)]
    shards = put_pictures(tmp_path, {image: Image.new("RGB", (8, 8)) for image, *_ in rows})
    captions = pd.DataFrame(rows, columns=["image_id", "raw", "split"])
    return Corpus("c", captions, shards, {}, [])


def test_words_stand_in_their_order_and_nearly_even_maps_are_told(corpus):
    found = attention_views(
        corpus, {"sharp": attention(2, 3, True), "even": attention(2, 4, False)}
    )
    assert [view.picture.image_id for view in found.views] == ["i0", "i1"]
    sharp, even = found.views[0].looks
    assert [word.text for word in sharp.words] == ["word0", "word1", "word2"]
    assert {(word.heat, word.peak) for word in sharp.words} == {("99000000", "4.0")}
    assert len(even.words) == 4
    assert found.even == [("even", "1.2")]


def test_so_many_images_have_their_maps_on_the_page_as_there_is_room_for_and_one_at_least(corpus):
    # 5 variants of 10 words with 4 positions need 400 digits per image.
    tables = {f"v{k}": attention(6, 10, True) for k in range(5)}
    assert len(attention_views(corpus, tables, digits=1300).views) == 3
    assert len(attention_views(corpus, tables, digits=10).views) == 1
