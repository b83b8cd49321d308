"""What the page shows of the test images: galleries and maps of attention, corpus by corpus."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.data.corpus import Captions
from pipeline.data.shards import Shards
from pipeline.report.attention import Views, attention_views, read_attention
from pipeline.report.gallery import Gallery, Picture, extremes_of, gallery, read_corpus
from pipeline.results.result import Result


class Files(NamedTuple):
    """Tables of a row that has captions."""

    captions: Path
    scores: Path
    "per image"
    attention: Path
    "missing where the decoder has none"


class Pictures(NamedTuple):
    galleries: list[Gallery]
    views: list[Views]
    pictures: list[Picture]
    "each once, whatever shows it"


def shown_captions(file: Path) -> pd.DataFrame:
    """Of validation and test, what tables and page tell of: image_id, raw, split."""
    splits = Captions(file, ["val", "test"], ["image_id", "raw", "split"])
    return pd.concat(splits, ignore_index=True)


def pictures(
    corpora: dict[str, tuple[pd.DataFrame, Shards]],
    results: list[Result],
    files: Callable[[str], Files],
    variants: int,
) -> Pictures:
    """Of every corpus.

    Args:
        corpora: name -> its captions and its data set's pictures.
        files: of the row of a name.
        variants: of all corpora; the more there are, the fewer images are shown of each.
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
