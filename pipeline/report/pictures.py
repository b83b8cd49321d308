"""The page's display of test images: galleries and attention maps, corpus by corpus."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.data.corpus import Captions
from pipeline.data.shards import Shards
from pipeline.report.attention import Views, attention_views, read_attention
from pipeline.report.gallery import Gallery, Picture, extremes_of, gallery, read_corpus
from pipeline.results.result import Result


class Files(NamedTuple):
    """Tables of a row that has captions."""

    captions: Path
    scores: Path
    "Scores per image."
    attention: Path
    "Attention weights. The file is missing if the decoder has none."


class Pictures(NamedTuple):
    galleries: list[Gallery]
    views: list[Views]
    pictures: list[Picture]
    "Each picture once, even if it is shown several times."


def shown_captions(file: Path) -> pd.DataFrame:
    """Return image_id, raw and split of validation and test, the splits that tables and page
    show.

    Raises:
        UserError: a table of captions is damaged, or has none of these splits.
    """
    splits = Captions(file, ["val", "test"], ["image_id", "raw", "split"])
    shown = pd.concat(splits, ignore_index=True)
    if shown.empty:
        raise UserError(f"{file} has no captions of val and test: run dvc repro")
    return shown


def pictures(
    corpora: dict[str, tuple[pd.DataFrame, Shards]],
    results: list[Result],
    files: Callable[[str], Files],
    variants: int,
) -> Pictures:
    """Return the galleries, attention maps and pictures of every corpus.

    Args:
        corpora: name -> captions of the corpus and pictures of its dataset.
        files: returns the files of the row with a given name.
        variants: number of variants of all corpora. With more variants, fewer images are shown of
            each.
    """
    found = Pictures([], [], [])
    for name, (captions, images) in corpora.items():
        mine = [r for r in results if r.setting.corpus == name]
        systems = [(r, files(r.name).captions, files(r.name).scores) for r in mine]
        corpus = read_corpus(name, captions, images, systems, mine[0].setting.language)
        found.galleries.append(gallery(corpus, extremes_of(variants)))
        looked = read_attention({r.label: files(r.name).attention for r in mine if r.decoding})
        found.views.extend([attention_views(corpus, looked)] if looked else [])
        found.pictures.extend(corpus.pictures.values())
    return found
