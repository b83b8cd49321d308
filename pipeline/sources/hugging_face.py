"""Any data set of pictures and captions that the `datasets` library opens, from the Hugging Face
hub or a local folder. A folder may contain pictures with a metadata file, Parquet, WebDataset, or
what `save_to_disk` wrote.

A row has a picture and a caption, or a list of captions. Rows with the same value in `id_column`
are one image. Without `id_column`, rows with the same bytes in the picture's file are one image,
and the MD5 of these bytes is the image_id.

Split schemes:
    official: the data set's own splits. `train_splits`, `val_splits` and `test_splits` assign them;
        without these, their usual names do (train, validation, test and others). If all rows are in
        one split, `split_column` may give the split of each. A picture in several splits counts as
        test before val, and as val before train.
    random: about the shares `val` and `test` of the images. Each image is drawn from its id and
        `seed`, so no image changes its split when rows are added at the end. With `id_column`, an
        image whose file has the same bytes as that of an image in an earlier row goes where that
        one went, so equal files are in one split.

Nothing is dropped. A row whose picture is missing stays in the index, and the corpus sets it aside
as `image missing`. This also holds for pictures larger than gate.LARGEST and, in a local folder,
for pictures outside it. A picture without a caption gets an empty one.

manifest.json records what was read: the commit on the hub, and the numbers of rows and pictures.
DVC does not watch the hub or the folder. `revision` pins a commit; `dvc repro -f -s download@NAME`
reads the data again.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, say
from pipeline.core.ranges import Natural, Seed, Share
from pipeline.data.files import whole_folder, write_json
from pipeline.sources.shared import base
from pipeline.sources.shared.caption_tables import image_id
from pipeline.sources.shared.gate import tell
from pipeline.sources.shared.hub_images import Found
from pipeline.sources.shared.hub_pictures import SetPictures, pictures_in, suffix_of
from pipeline.sources.shared.hub_sets import columns_of, open_set, rows_of, told, undecoded

# Split used here -> usual names of such splits on the hub.
USUAL = {
    "train": ("train", "training", "restval"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Columns:
    image: str
    caption: str
    "Column of the captions. The parts after the first dot are keys of a struct: sentences.raw."
    key: str | None
    split: str | None

    @property
    def wanted(self) -> dict[str, str]:
        """Return the column for each argument of `fetch` that names one."""
        named = {"image_column": self.image, "caption_column": self.caption.partition(".")[0]}
        others = {"id_column": self.key, "split_column": self.split}
        return named | {argument: column for argument, column in others.items() if column}


def fetch(
    folder: Path,
    *,
    name: str,
    config: str | None = None,
    revision: str | None = None,
    image_column: str = "image",
    caption_column: str = "caption",
    id_column: str | None = None,
    split_column: str | None = None,
    train_splits: list[str] | None = None,
    val_splits: list[str] | None = None,
    test_splits: list[str] | None = None,
    rows: Natural = 0,
    streaming: bool = False,
    val: Share = 0.1,
    test: Share = 0.1,
    seed: Seed = 1,
) -> None:
    """Fill `folder` from a data set.

    Args:
        name: a name on the hub, such as owner/name, or a local folder.
        config: the configuration, if the data set has several.
        revision: branch, tag or commit on the hub; null reads the current main branch.
        image_column: column of pictures, as the library's Image or as the bytes of their files.
        caption_column: column of captions, or of lists of captions; `sentences.raw` is the key raw
            of structs.
        id_column: column that tells images apart; null uses the bytes of their files.
        split_column: column that names each row's split, if the data set has one split for all.
        train_splits, val_splits, test_splits: splits of the data set to use as train, val and test.
            If all three are null, their names decide.
        rows: number of rows to read of each split, from its start; 0 reads all.
        streaming: whether rows are read from the hub on demand, without a copy in the cache.
        val, test: shares of the scheme `random`.
        seed: random seed of that scheme.

    Raises:
        UserError: `datasets` is not installed; the data set does not exist or may not be read; the
            hub cannot be reached; a column or split is missing; a cell contains something else.
    """
    if val + test >= 1:
        raise UserError(f"hugging_face: val {val} + test {test}: give shares of less than 1 in all")
    columns = Columns(image_column, caption_column, id_column, split_column)
    opened = open_set(name, config, revision, streaming)
    asked = {"train": train_splits, "val": val_splits, "test": test_splits}
    mapped = _mapping([*opened.splits], asked, split_column is not None, f"data set '{name}'")
    for split in mapped:
        with told(name):
            there = columns_of(opened.splits[split])
        _need(there, columns, f"data set '{name}', split '{split}'")
    found, pictures = Found(), SetPictures(opened.root)
    with whole_folder(folder) as part:
        with base.ShardWriter(part) as shards:
            for split, ours in mapped.items():
                for where, row in _numbered(opened.splits[split], columns, rows, split, name):
                    content = pictures.read(row[columns.image], where)
                    key = _note(found, row, content, columns, ours, where)
                    if content and key not in shards:
                        shards.add(key, content, suffix_of(content))
        _tell(found, pictures)
        if not found.pictures:
            raise UserError(f"data set '{name}': no picture of '{image_column}' can be read")
        split_of = partial(found.equal.split, val=val, test=test, seed=seed)
        _write(part, found, lambda images: split_of(found.seen(images)), opened.revision)


def _tell(found: Found, pictures: SetPictures) -> None:
    pictures.tell("hugging_face")
    tell("hugging_face", "rows have no picture that can be had", found.without, found.rows)
    several = found.several()
    tell("hugging_face", "images are in several splits and count for the last of them", several)


def size(*, name: str, **_: Any) -> base.Size:
    """Return the size of a local folder as it is, or 0 for a data set on the hub, which is not
    queried."""
    root = Path(name).expanduser()
    files = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else []
    with told(name):
        return base.Size(
            sum(pictures_in(path) for path in files), sum(p.stat().st_size for p in files), 0
        )


def _mapping(
    there: list[str], asked: dict[str, list[str] | None], all_of_them: bool, where: str
) -> dict[str, str]:
    """Return split of the data set -> split here ('' for none).

    Splits that are not read are reported on standard error.
    """
    named = {split: ours for ours, splits in asked.items() for split in splits or []}
    if missing := [split for split in named if split not in there]:
        raise UserError(f"{where} has no split '{missing[0]}', it has {', '.join(there)}")
    if len(named) < sum(len(splits or []) for splits in asked.values()):
        raise UserError(f"{where}: a split stands in two of train_splits, val_splits, test_splits")
    usual = {split: ours for ours, splits in USUAL.items() for split in splits}
    mapped = named or {split: usual[split] for split in there if split in usual}
    if not named and (all_of_them or len(there) == 1):
        mapped = {split: mapped.get(split, "") for split in there}
    if not mapped:
        raise UserError(
            f"{where} has the splits {', '.join(there)}: say with train_splits, val_splits and "
            "test_splits which are read"
        )
    if left := [split for split in there if split not in mapped]:
        say(
            f"hugging_face: splits of the data set that are not read: {', '.join(left)}", sys.stderr
        )
    return mapped


def _need(there: list[str], columns: Columns, where: str) -> None:
    for argument, column in columns.wanted.items():
        if column not in there:
            raise UserError(
                f"{where} has no column '{column}', it has {', '.join(there)}: set {argument}"
            )


def _numbered(
    table: Any, columns: Columns, rows: int, split: str, name: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return an iterator over the rows, each with its place for messages."""
    from tqdm import tqdm

    with told(name):
        table = undecoded(table, columns.image, [*dict.fromkeys(columns.wanted.values())])
        table = table.take(rows) if rows else table
    bar = tqdm(rows_of(table, name), f"reading {split}", unit=" rows", disable=None)
    return ((f"data set '{name}', {split} row {number}", row) for number, row in enumerate(bar))


def _note(
    found: Found,
    row: dict[str, Any],
    content: bytes | None,
    columns: Columns,
    split: str,
    where: str,
) -> str:
    """Add a row to `found`; return its image_id."""
    digest = hashlib.md5(content or b"").digest()
    key = digest.hex() if content else where.rpartition(", ")[2]
    if columns.key:
        key = base.printable(image_id(row[columns.key], where))
    ours = _split(row[columns.split], where) if columns.split else split
    about = found.about(key) or found.new(ours)
    if content and about.digest not in (None, digest):
        raise UserError(
            f"{where}: image '{key}' has another picture than before: set id_column to a column "
            "that tells pictures apart, or to null"
        )
    found.rows += 1
    if content:
        if about.digest is None:
            found.pictures += 1
            found.equal.add(key, digest)
        about = about._replace(digest=digest)
    else:
        found.without.append(where)
    if about.split != ours:
        later = max(about.split, ours, key=("", *base.SPLITS).index)
        about = about._replace(split=later, several=True)
    found.put(key, about, _texts(row, columns.caption, where))
    return key


def _texts(row: dict[str, Any], column: str, where: str) -> list[str]:
    """Return the captions of a row."""
    first, *keys = column.split(".")
    value = row[first]
    try:
        for key in keys:
            value = [one[key] for one in value] if isinstance(value, list) else value[key]
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{where}: there is no '{column}' in {row[first]!r}") from None
    listed = value if isinstance(value, list) else [value]
    texts = ["" if text is None else text for text in listed]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{where}: '{column}' holds {value!r}: name a column of texts or lists of texts; a key "
            "of a struct is named with a dot, sentences.raw"
        )
    return texts or [""]


def _split(value: Any, where: str) -> str:
    usual = {name: ours for ours, names in USUAL.items() for name in names}
    if value in (None, ""):
        return ""
    if not isinstance(value, str) or value.strip() not in usual:
        raise UserError(f"{where}: the split is {value!r}: give one of {', '.join(usual)}")
    return usual[value.strip()]


def _write(part: Path, found: Found, drawn: base.SplitOf, revision: str) -> None:
    several = found.several()
    schemes = {"random": drawn}
    if found.has_splits():
        schemes["official"] = found.split_of
    with base.CaptionWriter(part, schemes) as captions:
        for row in found.captions():
            captions.add([row])
    told_of = {
        "rows": found.rows,
        "pictures": found.pictures,
        "without_picture": len(found.without),
        "in_several_splits": len(several),
    }
    at = {"revision": revision} if revision else {}
    about = {"source": "hugging_face", "archives": {}, **at, "images": told_of}
    write_json(part / "manifest.json", about)
