"""A user's own images, with their captions in a table (CSV, JSON lines, Parquet), in COCO's JSON,
or in text files.

An image_id is the image's path within the folder without suffix, so cats/1.jpg and dogs/1.jpg are
two images.

Split schemes:
    official: the column `split` (train, val or test; also dev, valid, validation, restval), if the
        captions have one.
    random: shares `val` and `test` of the pictures that have captions, drawn by `seed`; the rest is
        train. Files of equal bytes count as one picture, so no file is in two splits. Pixels are
        not compared here: a photo that is saved as PNG and as BMP counts as two pictures. If they
        are in two splits, the stage `clean`, which decodes every picture, stops and names them:
        delete one, or allow some in `max_shared_pictures`.

Links that lead out of the folder are set aside unless `follow_links` is on, because everything that
is read here is copied, cached and pushed. Pipes, devices and files larger than any picture
(gate.LARGEST) are always set aside.

Nothing is dropped. A caption whose image is missing stays as a row without a file, which the corpus
sets aside as `image missing`. An image without captions gets one empty caption, which is set aside
as `empty`. manifest.json contains the number of both, and a message reports them when the folder is
read.

The images are copied. DVC does not watch the folder itself. After a change there, `dvc repro -f -s
download@NAME` reads it again. manifest.json contains its digest, so nothing else runs if the folder
has not changed.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.ranges import Seed, Share
from pipeline.data.files import digest, fingerprint, whole_folder
from pipeline.sources.shared import base
from pipeline.sources.shared.caption_tables import near_miss
from pipeline.sources.shared.folder_captions import (
    Columns,
    Entry,
    read_captions,
    read_text_files,
    within,
)
from pipeline.sources.shared.gate import SUFFIXES, Gate, tell


def fetch(
    folder: Path,
    *,
    path: str,
    captions: str | None = None,
    image_column: str = "image",
    caption_column: str = "caption",
    split_column: str = "split",
    val: Share = 0.1,
    test: Share = 0.1,
    seed: Seed = 1,
    follow_links: bool = False,
) -> None:
    """Fill `folder` from a folder of images; sub-folders are read too, hidden files are not.

    Args:
        path: the folder of images.
        captions: the file of captions, absolute or within `path`: .csv, .tsv, .jsonl, .parquet, or
            COCO's .json. With null, a .txt of the same name beside each image contains its
            captions, one per line.
        image_column, caption_column: columns of a row's image (a path within `path`, with /) and of
            its caption or list of captions.
        split_column: column of the split, which is optional; in COCO's JSON a key of images[].
        val, test: shares of the scheme `random`.
        seed: random seed of that scheme.
        follow_links: whether to take files outside the folder that links in it lead to.

    Raises:
        UserError: the folder or file does not exist, has no images or captions, or has an unknown
            format; a column is missing; a row is malformed; a name leaves the folder; an image is
            in two splits; two images have the same name except for the suffix.
    """
    root, columns = Path(path).expanduser(), Columns(image_column, caption_column, split_column)
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(
            f"folder: val: {val}, test: {test}: give shares of at least 0 that leave some "
            "images to train"
        )
    gate = Gate(root, follow_links)
    images = _images(root, gate)
    table = root / Path(captions).expanduser() if captions else None
    entries = list(read_captions(table, columns) if table else read_text_files(root, images, gate))
    if not entries:
        raise UserError(
            f"{table} holds no captions: name a file that has some in captions:"
            if table
            else f"{root} holds no .txt files: name a file in captions:"
        )
    by_name = _by_image(entries)
    files = dict.fromkeys(
        sorted(images.union(name for name in by_name if name not in images and gate.takes(name)))
    )
    missing = [name for name in by_name if name not in files]
    bare = [name for name in files if not by_name.get(name)]
    if len(missing) == len(by_name):
        gate.tell("folder")
        raise UserError(
            f"none of the images that {table or 'the text files'} name is in {root}: name "
            f"them relative to it{near_miss(by_name, files)}"
        )
    ids = _ids(files, by_name)
    official = {"official": _official(entries, ids)} if any(e.split for e in entries) else {}
    with whole_folder(folder) as part:
        with base.ShardWriter(part) as shards:
            digests = _copy(root, shards, ids, files)
        drawn = {ids[name]: digests[name] for name in files if by_name.get(name)}
        random = base.random_split_of_pictures(drawn, val, test, seed)
        # without a split, they would be set aside as `no split` instead of `empty`
        random |= dict.fromkeys((ids[name] for name in bare), "train")
        told = {
            "there": len(files),
            "missing": len(missing),
            "without_captions": len(bare),
            "digest": fingerprint(digests),
        }
        told |= {"set_aside": len(gate.refused)} if gate.refused else {}
        texts = {table.name: digest(table)} if table else {}
        rows = [
            base.make_row(ids[name], n, text)
            for name in dict.fromkeys([*by_name, *files])
            for n, text in enumerate(by_name.get(name) or [""])
        ]
        manifest = {"source": "folder", "archives": texts, "images": told}
        base.write_index(part, rows, {"random": random, **official}, manifest)
    gate.tell("folder")
    tell("folder", "images without captions, to be set aside as 'empty'", bare, len(files))
    tell(
        "folder",
        "images with captions that are not there, to be set aside as 'image missing'",
        [name for name in missing if name not in gate.refused],
        len(by_name),
    )


def size(*, path: str, follow_links: bool = False, **_: Any) -> base.Size:
    """Return the number of images and their total size.

    Raises:
        UserError: there is no such folder, or no images in it.
    """
    root = Path(path).expanduser()
    images = _images(root, Gate(root, follow_links))
    return base.Size(len(images), sum((root / name).stat().st_size for name in images), 0)


def _images(root: Path, gate: Gate) -> set[str]:
    """Return the paths of images that the gate takes: within the folder, as captions files write
    them."""
    if not root.is_dir():
        raise UserError(
            f"{root} (path: in params.yaml) is not a folder: name the one that holds your images"
        )
    inside = (file.relative_to(root) for file in root.rglob("*") if file.suffix.lower() in SUFFIXES)
    images = {
        file.as_posix()
        for file in inside
        if not any(part.startswith(".") for part in file.parts) and gate.takes(file.as_posix())
    }
    if not images:
        gate.tell("folder")
        raise UserError(
            f"{root} (path: in params.yaml) holds no images ({', '.join(sorted(SUFFIXES))})"
        )
    for name in images:
        within(name, str(root))
    return images


def _by_image(entries: list[Entry]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = {}
    for entry in entries:
        by_name.setdefault(entry.image, []).extend(entry.captions)
    return by_name


def _official(entries: list[Entry], ids: dict[str, str]) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for entry in entries:
        if entry.split:
            base.assign(split_of, ids[entry.image], entry.split, entry.where)
    return split_of


def _ids(files: Iterable[str], by_name: Iterable[str]) -> dict[str, str]:
    ids = {
        name: str(PurePosixPath(name).with_suffix("")) for name in dict.fromkeys([*files, *by_name])
    }
    first: dict[str, str] = {}
    for name, image_id in ids.items():
        if first.setdefault(image_id, name) != name:
            raise UserError(
                f"{first[image_id]} and {name} would both be image {image_id}: rename one of them"
            )
    return ids


def _copy(
    root: Path, shards: base.ShardWriter, ids: Mapping[str, str], files: Collection[str]
) -> dict[str, str]:
    """Copy the images to the shards; return the MD5 of each."""
    from tqdm import tqdm

    found = {}
    for name in tqdm(files, desc="copying images", unit=" files", disable=None):
        content = (root / name).read_bytes()
        shards.add(ids[name], content, PurePosixPath(name).suffix)
        found[name] = hashlib.md5(content).hexdigest()
    return found
