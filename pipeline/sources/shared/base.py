"""What all sources share: the index that a source writes, and where its archives come from.

A source is a module of pipeline/sources with two public functions. The first is

    fetch(folder: Path, *, <arguments of params.yaml, typed>) -> None

It fills `folder` completely or not at all: shards/ and images.parquet (written by a `ShardWriter`),
captions.parquet and manifest.json (see docs/reference/files.md). The second is

    size(**args) -> Size

It returns the disk space and the download that the same arguments need, so that the cost of a graph
is known before anything is fetched.
"""

import os
import random
import re
import zipfile
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError
from pipeline.data.files import digest, remove
from pipeline.sources.shared.archives import Archive, download, local, names, read_member, unpack
from pipeline.sources.shared.caption_tables import (
    coco_captions,
    content_of,
    decoded,
    near_miss,
    parse_json,
)
from pipeline.sources.shared.captions import (
    CaptionWriter,
    Row,
    SplitOf,
    make_row,
    printable,
    write_index,
)
from pipeline.sources.shared.shards import ShardWriter

__all__ = [
    "SPLITS",
    "Archive",
    "CaptionWriter",
    "Row",
    "ShardWriter",
    "Size",
    "SplitOf",
    "assign",
    "find_archives",
    "karpathy_archive",
    "last_images",
    "local_folder",
    "make_row",
    "md5s",
    "names",
    "printable",
    "random_split",
    "random_split_of_pictures",
    "read_coco",
    "read_json",
    "read_karpathy",
    "read_member",
    "read_tokens",
    "released_size",
    "unpack",
    "write_index",
]

SPLITS = ("train", "val", "test")
# The splits of Karpathy and Fei-Fei (CVPR 2015) for Flickr8k, Flickr30k and COCO 2014.
KARPATHY = Archive(
    "caption_datasets.zip", "", ("https://cs.stanford.edu/people/karpathy/deepimagesent/",)
)
# Size of the archive KARPATHY in bytes, rounded.
KARPATHY_BYTES = 36_700_000

_TOKEN = re.compile(rb"([^\t]+)#(\d+)\t(.*)", re.DOTALL)
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


class Size(NamedTuple):
    """The size of a dataset, as the `size(**args)` of its source returns it for the arguments of
    `fetch`."""

    images: int
    disk: int
    "Approximate bytes of the filled folder. While archives are unpacked, they lie beside it."
    download: int
    "Approximate bytes to fetch; 0 if a local folder is named."


def released_size(source: str, images: int, archives: int, given: str, karpathy: str = "") -> Size:
    """Return the size of a release whose archives unpack to about their own size, as photos do.

    Args:
        archives: total size of the archives in bytes.
        given, karpathy: the arguments `archives` and `karpathy` of the source's `fetch`.
    """
    extra = KARPATHY_BYTES if karpathy == "download" else 0
    return Size(images, archives, 0 if local_folder(source, given)[0] else archives + extra)


@contextmanager
def find_archives(
    folder: Path, source: str, archives: list[Archive], given: str
) -> Iterator[dict[str, Path]]:
    """Yield the archives of a release by name, from a local folder or downloaded.

    The environment variable CAPTIONLAB_<SOURCE> or `given` names a local folder. Its archives may
    differ from the release; the manifest records their MD5. Downloads stay beside `folder` until
    the block ends without an error, so that an interrupted one can be resumed. Then they are
    deleted.

    Raises:
        UserError: an archive is missing, or cannot be downloaded.
    """
    given_folder, where = local_folder(source, given)
    if given_folder:
        scratch = folder.with_name(f".{folder.name}.joined.part")
        try:
            yield local(given_folder, archives, where, scratch)
        finally:
            remove(scratch)
        return
    waiting = folder.with_name(f".{folder.name}.download")
    try:
        found = download(archives, waiting)
    except UserError as error:
        raise UserError(
            f"{error}; or name a folder that holds it in {_variable(source)} or archives: "
            "in params.yaml"
        ) from None
    yield found
    remove(waiting)


def md5s(paths: dict[str, Path]) -> dict[str, str]:
    """Return the MD5 of each archive by name, for the manifest."""
    return {name: digest(path) for name, path in sorted(paths.items())}


def local_folder(source: str, given: str) -> tuple[Path | None, str]:
    """Return the user's folder of archives, or None, and the setting that names it.

    CAPTIONLAB_<SOURCE> takes precedence over `given`.
    """
    variable = os.environ.get(_variable(source))
    folder = variable or given
    return Path(folder).expanduser() if folder else None, _variable(
        source
    ) if variable else "archives: in params.yaml"


def _variable(source: str) -> str:
    return f"CAPTIONLAB_{source.upper()}"


def assign(split_of: dict[str, str], image: str, split: str, where: str) -> None:
    """Record the split of an image.

    Raises:
        UserError: the image already has another split.
    """
    if split_of.setdefault(image, split) != split:
        raise UserError(
            f"{where}: image {image} is listed for {split_of[image]} and for {split}: "
            "leave it in one"
        )


def last_images(images: Iterable[str], held_out: int) -> dict[str, str]:
    """Split images by their order: the last `held_out` are test, as many before them are val, and
    the rest are train."""
    order = list(dict.fromkeys(images))
    test, val = set(order[-held_out:]), set(order[-2 * held_out : -held_out])
    return {
        image: "test" if image in test else "val" if image in val else "train" for image in order
    }


def random_split(images: Iterable[str], val: float, test: float, seed: int) -> dict[str, str]:
    """Split images at random into the shares `val` and `test`; the rest is train.

    The result depends on `seed`, not on the order of the images.
    """
    order = sorted(images)
    random.Random(seed).shuffle(order)
    tests, vals = round(test * len(order)), round(val * len(order))
    return {
        image: "test" if n < tests else "val" if n < tests + vals else "train"
        for n, image in enumerate(order)
    }


def random_split_of_pictures(
    digests: Mapping[str, str], val: float, test: float, seed: int
) -> dict[str, str]:
    """Split images as `random_split` does. Images with equal digests count as one and share its
    split.

    Args:
        digests: image_id -> digest of its picture's file.
    """
    first: dict[str, str] = {}
    for image in sorted(digests):
        first.setdefault(digests[image], image)
    split_of = random_split(first.values(), val, test, seed)
    return {image: split_of[first[found]] for image, found in digests.items()}


def read_json(data: bytes, where: str, drop: Set[str] = frozenset()) -> Any:
    """Parse JSON that may contain bytes that are not UTF-8 (see `make_row`).

    Keys in `drop` are not kept in memory. Errors are those of `caption_tables.parse_json`.
    """
    return parse_json(decoded(data, where), where, drop=drop)


def read_tokens(data: bytes, where: str) -> list[Row]:
    """Return the captions in Flickr's lines `name.jpg#n<TAB>caption`, in file order.

    The file name is the image_id.

    Raises:
        UserError: a line has another form; the message names the line.
    """
    out = []
    for number, line in enumerate(data.removeprefix(BOM_UTF8).split(b"\n"), 1):
        if not line.strip():
            continue
        match = _TOKEN.fullmatch(line)
        if match is None:
            start = printable(line[:60].decode("utf-8", "surrogateescape"))
            raise UserError(
                f"{where}, line {number}: expected 'name.jpg#n<TAB>caption', not {start!r}"
            )
        name, n, caption = (group.decode("utf-8", "surrogateescape") for group in match.groups())
        out.append(make_row(name, int(n), caption.removesuffix("\r")))
    return out


def read_coco(data: bytes, where: str) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the images of a COCO captions file with their captions, both in file order.

    An image is a dict with id, file_name and other keys. If a caption names an image that the file
    does not list, the image's file_name is its id. Errors are those of
    `caption_tables.coco_captions`.
    """
    return [
        (about, texts) for about, texts in coco_captions(read_json(data, where), where).values()
    ]


def karpathy_archive(given: str) -> list[Archive]:
    """Return the archives that `karpathy: download` adds to those of a release."""
    return [KARPATHY] if given == "download" else []


def read_karpathy(
    given: str, found: dict[str, Path], file: str, images: Set[str]
) -> tuple[dict[str, str], str]:
    """Return Karpathy's split of these images, and the MD5 of the file that contains it.

    Images marked restval go to train.

    Args:
        given: path of `file` or of caption_datasets.zip, or `download`. With `download`, the zip is
            among the archives `found`.
        file: dataset_<name>.json

    Raises:
        UserError: the file is missing or malformed, names none of these images, or puts an image in
            two splits.
    """
    path = found.get(KARPATHY.name) or Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"{path} (karpathy: in params.yaml) is not there: name the file {file}")
    data = read_member(path, file) if zipfile.is_zipfile(path) else content_of(path)
    content = read_json(data, f"{path} is not a {file}: it", {"sentences", "tokens"})
    split_of: dict[str, str] = {}
    try:
        for image in content["images"]:
            assign(split_of, image["filename"], _KARPATHY_SPLITS[image["split"]], str(path))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a {file}: expected images[].filename and .split ({error!r})"
        ) from None
    if not images & split_of.keys():
        hint = near_miss(split_of, images)
        todo = "name them alike" if hint else "it is of another dataset"
        raise UserError(f"{path} names none of these images{hint}: {todo}")
    return {image: split for image, split in split_of.items() if image in images}, digest(path)
