"""Follow the how-to pages to the letter in a copy of the code.

For pages on adding a part, the tests write the file, run the tests that the page names, and plan
the experiment that it shows. For the page on own images, a folder and a table as on the page become
a corpus.
"""

import random
import re
import shutil
import sys
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.data.checked import read_json
from tests.docs.pages import blocks, commands, saved_files
from tests.workspace import ROOT, make_workspace, run, tiny_params, tool, write_params

pytestmark = pytest.mark.slow

PAGES = sorted((ROOT / "docs/howto").glob("add-a*.md"))
COPIED = ["tests", "docs", "experiments", "params.yaml", "pyproject.toml", "README.md", "Makefile"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code and its tests, which a test may edit."""
    folder = make_workspace(tmp_path / "copy")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored, dirs_exist_ok=True)
        elif name != "params.yaml":
            shutil.copy(source, folder / name)
    return folder


def test_there_is_a_page_for_every_registry() -> None:
    kinds = {path.split("/")[1] for page in PAGES for path in saved_files(page)}
    assert kinds == {"decoders", "encoders", "sources", "metrics"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_part_is_added_as_its_page_says(copy: Path, page: Path) -> None:
    ((path, code),) = saved_files(page).items()
    (copy / path).write_text(code)
    give_small_arguments(copy, page.read_text())
    tested = [
        words[1:]
        for block in blocks(page, "bash")
        for words in commands(block.text)
        if words[0] == "python"
    ]
    if not tested:  # The page is about a metric, and contains its test.
        (copy / "tests/metrics/test_new.py").write_text(blocks(page, "python")[1].text)
        tested = [["-m", "pytest", "tests/metrics/test_new.py"]]
    for words in tested:
        said = run(copy, sys.executable, *words, "-n", "0", "-p", "no:cacheprovider").stdout
        assert "passed" in said or re.search(r"^\.+ ", said, re.MULTILINE), said
    run(copy, tool("ruff"), "check", "--config", str(ROOT / "pyproject.toml"), path)
    write_params(copy, merged(tiny_params(), page))
    assert "all together" in run(copy, tool("captionlab"), "plan", "params.yaml").stdout


def give_small_arguments(copy: Path, text: str) -> None:
    """Add the entry that the page gives for a dictionary in a test file. The page says `Give ... in
    NAME of FILE, here ENTRY`."""
    told = re.search(r"in `(\w+)` of `(tests/[\w/.]+)`, here `(.+?)`, and run", text)
    if told:
        name, file, entry = told.groups()
        before = (copy / file).read_text()
        after = re.sub(
            rf"^({name}\b[^=\n]*= \{{)", rf"\1\n    {entry},", before, flags=re.MULTILINE
        )
        assert after != before
        (copy / file).write_text(after)


def merged(params: dict[str, Any], page: Path) -> dict[str, Any]:
    """Return the params with the rows that the page's YAML blocks add."""
    for block in blocks(page, "yaml"):
        for section, rows in yaml.safe_load(block.text).items():
            params[section] |= rows
    return params


def test_another_language_becomes_a_corpus_as_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs/howto/another-language.md"
    photos = tmp_path / "photos"
    photos.mkdir()
    header, *told = blocks(page, "text")[0].text.splitlines()
    captions = [line.split(",")[1] for line in told]
    lines = [header]
    for n in range(200):
        noise = random.Random(n).randbytes(8 * 8 * 3)
        Image.frombytes("RGB", (8, 8), noise).save(photos / f"{n}.png")
        lines.append(f"{n}.png,{n} {captions[n % 3]}")
    (photos / "hindi.csv").write_text("\n".join(lines) + "\n", "utf-8")
    params = merged(tiny_params(), page)
    params["datasets"]["hindi"]["args"]["path"] = str(photos)
    write_params(tmp_path, params)
    monkeypatch.chdir(tmp_path)
    for stage in ("download", "clean", "references"):
        import_module(f"stages.{stage}").main("hindi")
    texts = pd.read_parquet("data/corpora/hindi/captions.parquet").text
    assert len(texts) == 200
    assert not texts.str.contains("।").any()
    meant = read_json(Path("data/references/hindi/references.json"))
    assert {text.split(" ", 1)[1] for two in meant.values() for text in two} == {
        caption.removesuffix("।") for caption in captions
    }


def test_a_data_set_of_hugging_face_becomes_a_corpus_as_its_page_says(copy: Path) -> None:
    page = ROOT / "docs/howto/hugging-face.md"
    write_params(copy, merged(tiny_params(), page))
    (made,) = blocks(page, "python")
    run(copy, sys.executable, "-c", made.text)
    assert "hub-lite0" in run(copy, tool("captionlab"), "plan", "params.yaml").stdout
    for stage in ("download", "clean"):
        run(copy, sys.executable, "-m", f"stages.{stage}", "hub")
    table = pd.read_parquet(copy / "data/corpora/hub/captions.parquet")
    assert table.split.value_counts().to_dict() == {"train": 320, "val": 40, "test": 40}
    assert set(table.image_id[table.split == "val"]) == {f"validation-{n}" for n in range(20)}
    assert (copy / "data/validation/hub/index.html").is_file()


def test_own_images_become_a_corpus_as_their_page_says(copy: Path) -> None:
    page = ROOT / "docs/howto/own-images.md"
    photos = copy / "photos"
    (photos / "dogs").mkdir(parents=True)
    header = blocks(page, "text")[0].text.splitlines()[0]
    lines = [header]
    for n in range(200):
        noise = random.Random(n).randbytes(16 * 16 * 3)
        Image.frombytes("RGB", (16, 16), noise).save(photos / f"dogs/{n}.jpg")
        lines.append(f"dogs/{n}.jpg,a dog number {n} on the beach")
    (photos / "captions.csv").write_text("\n".join(lines) + "\n")
    params = merged(tiny_params(), page)
    assert params["datasets"]["mine"]["args"]["path"] == "/photos"
    params["datasets"]["mine"]["args"]["path"] = str(photos)
    with tarfile.open(copy / "00000.tar", "w") as shard:  # The page has 332 shards.
        shard.add(photos / "dogs/0.jpg", "0.jpg")
        shard.add(photos / "captions.csv", "0.txt")
    params["datasets"]["web"]["args"]["path"] = str(copy / "{00000..00000}.tar")
    write_params(copy, params)
    assert "mine-lite0" in run(copy, tool("captionlab"), "plan", "params.yaml").stdout
    for stage in ("download", "clean"):
        run(copy, sys.executable, "-m", f"stages.{stage}", "mine")
    splits = pd.read_parquet(copy / "data/corpora/mine/captions.parquet").split
    assert splits.value_counts().to_dict() == {"train": 160, "val": 20, "test": 20}
    assert (copy / "data/validation/mine/index.html").is_file()
