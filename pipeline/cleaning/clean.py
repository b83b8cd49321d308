"""Turns captions as published into the rows for training and scoring, and the rows set aside, each
with its reason."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cleaning.image_check import Picture, looks_of
from pipeline.core.errors import UserError
from pipeline.data.checked import check_columns
from pipeline.data.corpus import COLUMNS, columns_of, rows_of
from pipeline.experiment.params import Corpus
from pipeline.languages.languages import ENGLISH, find_language, in_another_script
from pipeline.languages.text import normalised, without_punctuation
from pipeline.languages.tokens import parted

if TYPE_CHECKING:
    import pyarrow as pa

RAW_COLUMNS = ["image_id", "caption_id", "raw", "undecodable"]
REJECTED_COLUMNS = ["image_id", "caption_id", "raw", "split", "reason"]
# Number of bytes of a text's digest. With 8, one corpus of ten million rows in 400,000 would take
# two texts for equal.
DIGEST = 16
# Marks whose sign was removed, such as the frame of a keycap emoji: they would begin a word.
LONE_MARKS = re.compile(r"(?<!\S)[\u0300-\u036f\u20d0-\u20ff\ufe20-\ufe2f]+")
# Control characters (category Cc) become spaces.
CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


class _WithoutPunctuation(dict[int, int | None]):
    """A table for str.translate, which asks for each character once.

    Letters, marks, numbers and spaces stay. Variation selectors, which choose between pictures of a
    sign such as an emoji, are removed: they are not marks of a letter.
    """

    def __missing__(self, point: int) -> int | None:
        kept = unicodedata.category(chr(point))[0] in "LMN"
        stays = chr(point).isspace() or (kept and "VARIATION SELECTOR" not in _name(point))
        self[point] = point if stays else None
        return self[point]


def _name(point: int) -> str:
    return unicodedata.name(chr(point), "")


WITHOUT_PUNCTUATION = _WithoutPunctuation()


def clean_text(text: str, options: Corpus) -> str:
    """Return one caption cleaned as configured; white space and control characters become single
    spaces.

    U+2028 or a carriage return inside a caption would shift every later line of the PTB tokenizer.
    """
    text = text.translate(CONTROLS)
    words = _english(text, options) if options.language == ENGLISH else _of_language(text, options)
    if options.one_letter_words == "drop":
        words = [word for word in words if len(word) > 1]
    return " ".join(words)


def _of_language(text: str, options: Corpus) -> list[str]:
    """Return the words of a caption, which are tokens if the script has no spaces between words."""
    language = find_language(options.language)
    text = normalised(text, language, options.lower)
    if options.punctuation == "drop":
        text = without_punctuation(text)
    return text.split() if language.spaced else parted(text, language)


def _english(text: str, options: Corpus) -> list[str]:
    if options.lower:
        text = text.lower()
    if options.punctuation == "drop":
        text = text.translate(WITHOUT_PUNCTUATION)
        if not text.isascii():
            text = LONE_MARKS.sub("", text)
    if options.punctuation == "letters":
        text = re.sub("[^A-Za-z]+", " ", text)
    return text.split()


def raw_rows(folder: Path, options: Corpus) -> Iterator[pd.DataFrame]:
    """Yield the captions of a dataset, ROWS rows at a time: `RAW_COLUMNS` and the splits of the
    scheme.

    Raises:
        UserError: the file is missing, is not Parquet, or lacks a column or the scheme.
    """
    path = folder / "captions.parquet"
    scheme = _scheme(columns_of(path, RAW_COLUMNS), options.split)
    return _checked(rows_of(path, [*RAW_COLUMNS, scheme]), path)


def _checked(parts: Iterator[pd.DataFrame], path: Path) -> Iterator[pd.DataFrame]:
    for rows in parts:
        check_columns(rows, path, whole=["image_id", "caption_id"])
        yield rows


def _scheme(columns: list[str], name: str) -> str:
    schemes = [column for column in columns if column.startswith("split_")]
    if f"split_{name}" not in schemes:
        there = [column.removeprefix("split_") for column in schemes]
        raise UserError(
            f"split: '{name}' (corpora in params.yaml) is no split scheme of this dataset: there "
            f"are {', '.join(there) or 'none'}"
        )
    return f"split_{name}"


def clean_file(
    folder: Path, pictures: Mapping[str, Picture], options: Corpus, out: Path
) -> pd.DataFrame:
    """Split and clean a dataset, data/raw/D, ROWS rows at a time and in their order.

    Args:
        pictures: what `look_at_images` saw of every image that has a picture.
        out: the folder for captions.parquet (`COLUMNS`) and rejected.parquet (`REJECTED_COLUMNS`).

    Returns:
        The rows set aside.

    Raises:
        UserError: a column or the split scheme is missing, or more than the share
            options.max_rejected of the rows is set aside.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    seen, count, writer = Seen(), 0, None
    aside: list[pd.DataFrame] = []
    try:
        for rows in raw_rows(folder, options):
            captions, rejected = _clean(rows, pictures, options, seen)
            table = pa.Table.from_pandas(captions, preserve_index=False)
            writer = writer or ParquetWriter(
                out / "captions.parquet", _with_language(table.schema, options)
            )
            writer.write_table(table)
            count += len(rows)
            if len(rejected) or not aside:
                aside.append(rejected)
    finally:
        if writer:
            writer.close()
    rejected = pd.concat([part for part in aside if len(part)] or aside, ignore_index=True)
    rejected.to_parquet(out / "rejected.parquet", index=False)
    _check_share(rejected, count, options.max_rejected)
    return rejected


def _with_language(schema: "pa.Schema", options: Corpus) -> "pa.Schema":
    """Return the schema with the language in its metadata.

    Stages that depend on the table therefore run when the language changes, even if it changes no
    caption. They do not declare the key of params.yaml.
    """
    return schema.with_metadata({**schema.metadata, "language": options.language})


class Seen:
    """The pairs of image and text seen so far, as digests of 16 bytes each, however long the
    texts."""

    def __init__(self) -> None:
        self._sorted = digests([])

    def again(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        """Return (N,) whether each row repeats the image and text of an earlier row, in these rows
        or in those of an earlier call."""
        found = digests(
            f"{image}\0{text}" for image, text in zip(rows["image_id"], rows["text"], strict=True)
        )
        order = np.argsort(found, kind="stable")
        repeated = np.zeros(len(found), bool)
        repeated[order[1:]] = found[order[1:]] == found[order[:-1]]
        places = np.searchsorted(self._sorted, found)
        if len(self._sorted):
            repeated |= self._sorted[np.minimum(places, len(self._sorted) - 1)] == found
        new = order[~repeated[order]]
        self._sorted = np.insert(self._sorted, places[new], found[new])
        return repeated


def digest(text: str) -> bytes:
    """Return a digest of `DIGEST` bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()


def digests(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Return (N,) digests, one for each text."""
    joined = bytearray()
    for text in texts:
        joined += digest(text)
    return np.frombuffer(joined, f"S{DIGEST}")


def _clean(
    raw: pd.DataFrame, pictures: Mapping[str, Picture], options: Corpus, seen: Seen
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the cleaned rows and the rows set aside.

    Args:
        raw: RAW_COLUMNS and the splits.
        seen: the pairs of image and text in earlier rows; these rows are added.
    """
    rows = raw[RAW_COLUMNS].assign(split=raw[f"split_{options.split}"], text="")
    undecodable = rows["undecodable"].astype(bool) | rows["raw"].str.contains(
        "\ufffd", regex=False
    ).fillna(False).astype(bool)
    readable = ~undecodable & rows["raw"].notna()
    rows.loc[readable, "text"] = [clean_text(text, options) for text in rows.loc[readable, "raw"]]
    language = find_language(options.language)
    foreign = [
        good and in_another_script(raw, language)
        for good, raw in zip(readable, rows["raw"], strict=True)
    ]
    words = rows["text"].map(lambda text: len(text.split()))
    looks = looks_of(pictures, rows["image_id"])
    reason = pd.Series([look.problem for look in looks], rows.index, dtype=object)
    for faulty, name in (
        (rows["split"].isna(), "no split"),
        (undecodable, "undecodable"),
        (pd.Series(foreign, rows.index), f"not in {language.letters} letters"),
        (words == 0, "empty"),
        (words < options.min_words, "too short"),
        (words > options.max_words, "too long"),
    ):
        reason = reason.mask(reason.isna() & faulty, name)
    good = rows[reason.isna()]
    reason[good.index[seen.again(good)]] = "duplicate"
    rejected = (
        rows[reason.notna()].assign(reason=reason.dropna())[REJECTED_COLUMNS].reset_index(drop=True)
    )
    return rows[reason.isna()][COLUMNS].reset_index(drop=True), rejected


def _check_share(rejected: pd.DataFrame, rows: int, most: float) -> None:
    if len(rejected) <= most * rows:
        return
    reasons = ", ".join(
        f"{name} ({count})" for name, count in rejected["reason"].value_counts().head(3).items()
    )
    first = "; ".join(f"{row.caption_id}: {row.reason}" for row in rejected.head(3).itertuples())
    raise UserError(
        f"{len(rejected)} of {rows} rows ({len(rejected) / rows:.1%}) would be set aside, "
        f"max_rejected allows {most:.1%}: "
        f"{reasons}; first rows {first}; correct the captions or raise max_rejected"
    )
