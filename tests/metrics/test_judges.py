"""chrF, CIDEr without the D, SPIDEr and self-CIDEr: each equals its original."""

import math
from itertools import product, zip_longest
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.cider.cider_scorer import CiderScorer
from sacrebleu.metrics import CHRF

from captionlab.evaluation import evaluate
from pipeline.metrics import chrf, cider, plain_cider, self_cider, spice, spider
from pipeline.metrics.shared.base import Scores, Unavailable
from pipeline.scoring.variant import Known, Said, score_variant
from tests.metrics.test_properties import CANDIDATES, REFERENCES

# A sigma with which a different length costs nothing.
NO_PENALTY = 1e9
SETS = [
    ["a dog runs on the beach", "the brown dog runs", "a cat sleeps"],
    ["two men play guitar", "two men play guitar", "two men play guitar"],
    ["a bird", "people wait in line", "children kick one ball"],
]


def test_chrf_equals_sacrebleus() -> None:
    ours, theirs = chrf.score(CANDIDATES, REFERENCES), CHRF()
    streams = [list(s) for s in zip_longest(*(REFERENCES[i] for i in CANDIDATES))]
    corpus = theirs.corpus_score([*CANDIDATES.values()], streams).score / 100
    assert ours.corpus["chrf"] == pytest.approx(corpus, abs=1e-12)
    for image, text in CANDIDATES.items():
        expected = theirs.sentence_score(text, REFERENCES[image]).score / 100
        assert ours.per_image["chrf"][image] == pytest.approx(expected, abs=1e-12)
    assert ours.sums is not None
    again = ours.sums.score(ours.sums.statistics.sum(0))["chrf"]
    assert float(again) == ours.corpus["chrf"]


def test_plain_cider_is_the_originals_without_its_penalty_where_no_word_is_repeated() -> None:
    """The original clips only words that a caption says more often than a reference."""
    once = {i: " ".join(dict.fromkeys(text.split())) for i, text in CANDIDATES.items()}
    theirs = CiderScorer(sigma=NO_PENALTY)
    for image, text in once.items():
        theirs += (text, REFERENCES[image])
    corpus, sentences = theirs.compute_score()
    ours = plain_cider.score(once, REFERENCES)
    assert ours.corpus["plain_cider"] == pytest.approx(corpus, abs=1e-9)
    assert list(ours.per_image["plain_cider"].values()) == pytest.approx(list(sentences), abs=1e-9)


def test_what_is_repeated_is_clipped_by_cider_d_alone() -> None:
    """At order 1, "dog dog" has the vector (dog: 2 log 2) and "dog" the vector (dog: log 2).

    Their cosine is 1. Clipping makes it 1 / 2, and one word more costs exp(-1 / 72).
    """
    said, meant = {"1": "dog dog", "2": "cat"}, {"1": ["dog"], "2": ["cat"]}
    plain = plain_cider.score(said, meant).per_image["plain_cider"]
    assert plain["1"] == pytest.approx(10 / 4)
    clipped = cider.score(said, meant).per_image["cider"]
    assert clipped["1"] == pytest.approx(10 / 4 / 2 * math.exp(-1 / 72))
    assert plain["2"] == clipped["2"] == pytest.approx(10 / 4)


def test_spider_is_the_mean_of_cider_and_spice(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = {i: n / 10 for n, i in enumerate(CANDIDATES)}
    fake = Scores({"spice": 0.0}, {"spice": judged})
    monkeypatch.setattr(spice, "score", lambda *_: fake)
    ours = spider.score(CANDIDATES, REFERENCES)
    consensus = cider.score(CANDIDATES, REFERENCES).per_image["cider"]
    assert ours.per_image["spider"] == {i: (consensus[i] + judged[i]) / 2 for i in CANDIDATES}
    assert ours.corpus["spider"] == pytest.approx(np.mean([*ours.per_image["spider"].values()]))


def test_spider_without_spices_models_says_what_spice_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pycocoevalcap.spice.__file__", str(tmp_path / "__init__.py"))
    found = evaluate(
        {"1": "a dog", "2": "a cat"}, {"1": ["a dog"], "2": ["a cat"]}, "spider", "raw"
    )
    assert found.scores == {}
    assert found.unavailable["spider"].startswith(
        "Stanford CoreNLP 3.6.0 is not beside SPICE's jar"
    )


def theirs_of(texts: list[str], references: list[list[str]]) -> float:
    """Return Wang and Chan's get_div of the eigenvalues of a matrix that pycocoevalcap fills.

    There are as many pairs of texts as images. pycocoevalcap takes the logarithm of the number of
    pairs, which is then that of the references.
    """
    scorer = CiderScorer(sigma=NO_PENALTY)
    scorer.crefs = [[cook(text) for text in of_image] for of_image in references]
    scorer.compute_doc_freq()
    pairs = list(product(texts, texts))
    assert len(pairs) == len(references)
    scorer.ctest = [cook(one) for one, _ in pairs]
    scorer.crefs = [[cook(other)] for _, other in pairs]
    matrix = np.array(scorer.compute_cider()).reshape(len(texts), -1)
    roots = np.sqrt(np.linalg.eigvalsh(matrix / 10).clip(0, None))
    return float(-np.log(roots[-1] / roots.sum()) / np.log(len(roots)))


def cook(text: str) -> dict[tuple[str, ...], int]:
    from pycocoevalcap.cider.cider_scorer import precook

    counts: dict[tuple[str, ...], int] = precook(text, 4)
    return counts


def test_self_cider_equals_the_authors_formula_on_the_originals_vectors() -> None:
    images = list(CANDIDATES)[:9]
    references = {i: REFERENCES[i] for i in images}
    sets = dict(zip(images, SETS, strict=False))
    ours = self_cider.score({i: CANDIDATES[i] for i in images}, references, sets)
    expected = [theirs_of(texts, list(references.values())) for texts in SETS]
    found = list(ours.per_image["self_cider"].values())
    assert found == pytest.approx(expected, abs=1e-9)
    assert ours.corpus["self_cider"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert found[1] == pytest.approx(0, abs=1e-6)
    assert found[0] < found[2]


def test_captions_without_a_word_in_common_are_as_different_as_can_be() -> None:
    assert self_cider.diversity(np.eye(4)) == pytest.approx(1)
    assert self_cider.diversity(np.ones((4, 4))) == pytest.approx(0, abs=1e-6)
    assert math.isnan(self_cider.diversity(np.zeros((2, 2))))


def test_one_caption_an_image_has_no_diversity_and_says_what_to_write() -> None:
    with pytest.raises(Unavailable, match=r"write decode: \{samples: 5, alternatives: 5\}$"):
        self_cider.score(CANDIDATES, REFERENCES)


def test_the_captions_that_a_variant_keeps_are_what_self_cider_compares(tmp_path: Path) -> None:
    import pandas as pd

    images = ["a", "b", "c"]
    meant = {"a": ["ein hund"], "b": ["ein vogel"], "c": ["zwei katzen"]}
    sets = [["Ein Hund.", "ein Hund"], ["Ein Vogel", "zwei Katzen"], ["Hund"]]
    table = pd.DataFrame({
        "image_id": images, "split": "test", "text": [texts[0] for texts in sets],
        "alternatives": [[{"text": text, "log_prob": -1.0} for text in texts] for texts in sets],
    })  # fmt: skip
    for name in ("captions", "searches", "forced", "seeds"):
        kept = table if name == "captions" else table.assign(search="greedy", seed=2).iloc[:0]
        kept.to_parquet(tmp_path / f"{name}.parquet")
    files = [tmp_path / f"{name}.parquet" for name in ("captions", "searches", "forced", "seeds")]
    metrics = ["self_cider", "cider"]
    said = Said.read(files, [], metrics)
    found = score_variant(said, Known(meant, meant, set(), language="de"), metrics, [])
    values = found.per_image.self_cider.tolist()
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[1] == pytest.approx(1)
    assert math.isnan(values[2])
    assert found.unavailable == {}
    assert Said.read(files, [], ["cider"]).sets == {}
