"""Seven languages through every stage of the graph, each with a tiny model, in one workspace."""

import csv
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from sacrebleu.metrics import BLEU, CHRF

from pipeline.core import paths
from pipeline.data.checked import read_json
from pipeline.languages.languages import find_language
from pipeline.languages.text import joined
from pipeline.languages.tokens import tokens
from pipeline.results.scores import ScoreTable
from tests.languages.captions import LANGUAGES, published
from tests.workspace import ROOT, tiny_params, write_params

NO_SPACES = ("ja", "th", "zh")


def params_of(folder: Path) -> dict[str, Any]:
    """Return params with a data set, a corpus, features and a model for each language."""
    params = tiny_params()
    one = {n: next(iter(params[n].values())) for n in ("corpora", "features", "variants")}
    split = {"val": 0.2, "test": 0.3, "seed": 1}
    for name in ("datasets", "corpora", "features", "variants"):
        params[name] = {}
    for code in LANGUAGES:
        args = {"path": str(folder / "photos"), "captions": f"{code}.csv", **split}
        params["datasets"][code] = {"source": "folder", "args": args}
        corpus = {"dataset": code, "split": "random", "language": code}
        params["corpora"][code] = {**one["corpora"], **corpus, "max_shared_captions": 1.0}
        params["features"][code] = {**one["features"], "dataset": code}
        row = {"corpus": code, "features": code, "decoder": "soft_attention"}
        sizes = {"embedding": 8, "hidden": 8, "attention": 8, "dropout": 0.0, "stochastic": 1.0}
        params["variants"][f"soft-{code}"] = {**one["variants"], **row, "args": sizes}
    params["train"] |= {"epochs": 6, "lr": 0.05, "warmup_steps": 0, "schedule": "constant"}
    params["decode"] |= {"max_tokens": 12, "beam": 2}
    params["scoring"]["metrics"] = [
        *("bleu", "meteor", "rouge_l", "cider", "chrf", "degeneration"),
    ]
    params["scoring"]["protocols"] = []
    return params


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("languages")
    photos = folder / "photos"
    photos.mkdir()
    for n, image in enumerate(published("de")):
        Image.new("RGB", (16, 16), (14 * n, 255 - 14 * n, 90)).save(photos / f"{image}.png")
    for code in LANGUAGES:
        with (photos / f"{code}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [(f"{i}.png", text) for i, texts in published(code).items() for text in texts]
            csv.writer(file).writerows([("image", "caption"), *rows])
    write_params(folder, params_of(folder))
    shutil.copy(ROOT / "dvc.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for code in LANGUAGES:
            for stage in ("download", "clean", "references", "extract", "baseline"):
                import_module(f"stages.{stage}").main(code)
            for stage in ("train", "caption", "score"):
                import_module(f"stages.{stage}").main(f"soft-{code}")
        import_module("stages.compare").main()
        yield folder


def captions_of(code: str) -> pd.DataFrame:
    return pd.read_parquet(paths.captions(f"soft-{code}"))


def words_of(code: str) -> pd.DataFrame:
    return pd.read_parquet(paths.CORPORA / code / "captions.parquet")


@pytest.mark.parametrize("code", LANGUAGES)
def test_what_a_model_learns_is_its_languages_words(workspace: Path, code: str) -> None:
    corpus, language = words_of(code), find_language(code)
    assert len(corpus) + len(pd.read_parquet(paths.CORPORA / code / "rejected.parquet")) == 36
    assert corpus.text.str.split().str.len().min() > 2
    assert not corpus.text.str.contains(r"[.。।،]").any()
    for raw, text in zip(corpus.raw, corpus.text, strict=True):
        letters = re.sub(r"[\s.。।،、]", "", raw).lower()
        assert joined(text, language).replace(" ", "") == letters


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_model_writes_spaces_only_where_its_script_has_them(workspace: Path, code: str) -> None:
    said = captions_of(code).text
    assert said.str.len().min() > 1
    assert said.str.contains(" ").any() == (code not in NO_SPACES)
    baseline = pd.read_parquet(paths.captions(f"most-frequent--{code}")).text
    assert baseline.str.contains(" ").any() == (code not in NO_SPACES)
    if code in NO_SPACES:  # attention is still kept per word
        looked = pd.read_parquet(paths.attention(f"soft-{code}")).groupby("image_id").word
        texts = captions_of(code).set_index("image_id").text
        assert {i: "".join(words) for i, words in looked} == texts[[*looked.groups]].to_dict()


@pytest.mark.parametrize("code", LANGUAGES)
def test_scores_are_sacrebleus(workspace: Path, code: str) -> None:
    language, table = find_language(code), captions_of(code)
    table = table[table.split == "test"].sort_values("image_id")
    raw = read_json(paths.published(code))
    said = [tokens(text, language) for text in table.text]
    meant = [[tokens(text, language) for text in raw[image]] for image in table.image_id]
    scores = ScoreTable.read(paths.SCORES / f"soft-{code}" / "scores.csv")
    streams = [list(stream) for stream in zip(*meant, strict=True)]
    for order in (1, 2):
        bleu = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
        theirs = bleu.corpus_score(said, streams).score / 100
        assert scores.value("test", f"bleu_{order}") == pytest.approx(theirs, abs=1e-6)
    theirs = CHRF().corpus_score(said, streams).score / 100
    assert scores.value("test", "chrf") == pytest.approx(theirs, abs=1e-12)
    assert {"rouge_l", "cider"} <= set(scores.metrics("test"))


@pytest.mark.parametrize("code", LANGUAGES)
def test_what_reads_english_is_not_available_and_says_why(workspace: Path, code: str) -> None:
    about = read_json(paths.SCORES / f"soft-{code}" / "about.json")
    name = find_language(code).name
    assert about["unavailable"] == {"meteor": f"it reads English, and the captions are in {name}"}
    scores = ScoreTable.read(paths.SCORES / f"soft-{code}" / "scores.csv")
    assert "repetition" in scores.metrics("test")
    assert "bad_endings" not in scores.metrics("test")
    assert "val_bad_endings" not in pd.read_csv(paths.history(f"soft-{code}"))


def test_tables_name_the_tokenizer_and_no_column_holds_two(workspace: Path) -> None:
    tables = paths.REPORT / "tables"
    markdown = (tables / "all.md").read_text("utf-8")
    assert "in Chinese, sacrebleu's tokenizer zh (characters); captions: beam 2" in markdown
    assert "in Thai, PyThaiNLP's tokenizer newmm" in markdown
    with (tables / "all.csv").open(encoding="utf-8") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    for name in ("cider", "chrf", "bleu_4"):
        assert f"test {name}" not in rows["soft-zh"]
        assert rows["soft-zh"][f"test {name} (zh)"]
        assert rows["soft-de"][f"test {name} (zh)"] == ""
        assert rows["soft-de"][f"test {name} (intl)"]
    assert rows["soft-zh"]["test loss"]
    latex = (tables / "all.tex").read_text("utf-8")
    assert "corpus ar (Arabic, written from right to left): LuaLaTeX" in latex
    assert r"\babelprovide[import]{arabic}" in latex


def test_the_page_says_in_which_language_and_direction_a_caption_is(workspace: Path) -> None:
    page = (paths.REPORT / "index.html").read_text("utf-8")
    for code in LANGUAGES:
        direction = "rtl" if code == "ar" else "ltr"
        assert f'<dd lang="{code}" dir="{direction}">' in page
        assert f'<ul class="references" lang="{code}" dir="{direction}">' in page
    assert captions_of("ar").text.iloc[-1] in page
