"""Flickr8k: 8,091 photos of everyday scenes, five captions each (Hodosh, Young and Hockenmaier, JAIR 47, 2013).

Split schemes:
    official: Flickr_8k.{train,dev,test}Images.txt, 6,000/1,000/1,000 images; 91 photos are in no split.
    karpathy: dataset_flickr8k.json of Karpathy and Fei-Fei (CVPR 2015), where `karpathy` names that file.
    last: in the order of Flickr8k.token.txt, the last 1,000 photos are test, the 1,000 before them val, the rest train.
"""

import codecs
import re
from dataclasses import replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import digest, read_json, whole_folder
from pipeline.sources import base

MIRRORS = (
    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/",
    "http://nlp.cs.illinois.edu/HockenmaierGroup/Framing_Image_Description/",
)
PHOTOS = base.Archive("Flickr8k_Dataset.zip", "f18a1e2920de5bd84dae7cf08ec78978", MIRRORS)
TEXTS = base.Archive("Flickr8k_text.zip", "bf6c1abcb8e4a833b7f922104de18627", MIRRORS)
FOLDER = "Flicker8k_Dataset"
"the release's own spelling"
HELD_OUT = 1000
"images in test, and in val, of the scheme `last`"

_CAPTION = re.compile(rb"([^\t]+)#(\d+)\t(.*)", re.DOTALL)
_KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def fetch(folder: Path, *, archives: str = "", karpathy: str = "") -> None:
    """Fill `folder` from the two archives of the public release.

    Args:
        archives: a local folder that holds Flickr8k_Dataset.zip and Flickr8k_text.zip; empty: download them.
            CAPTIONLAB_FLICKR8K takes precedence.
        karpathy: path of dataset_flickr8k.json; empty: no scheme `karpathy`.

    Raises:
        UserError: an archive is missing, broken, unsafe or not the published one; a malformed line; an image in two
            splits; a dataset_flickr8k.json that is none.
    """
    with base.find_archives(folder, "flickr8k", [PHOTOS, TEXTS], archives) as found, whole_folder(folder) as part:
        texts = found[TEXTS.name]
        rows = _captions(base.read_member(texts, "Flickr8k.token.txt"), f"{texts}/Flickr8k.token.txt")
        manifest: dict[str, object] = {"source": "flickr8k", "archives": base.md5s(found)}
        schemes = {"official": _official(texts)}
        if karpathy:
            schemes["karpathy"] = _karpathy(Path(karpathy), {row.image_id for row in rows})
            manifest["karpathy"] = digest(Path(karpathy))
        photos = set(base.unpack(found[PHOTOS.name], FOLDER, part / "images"))
        rows = [replace(row, file=f"images/{row.image_id}" if row.image_id in photos else None) for row in rows]
        schemes["last"] = _last(list(dict.fromkeys(row.image_id for row in rows if row.file)))
        base.write_index(part, rows, schemes, manifest)


def _captions(data: bytes, where: str) -> list[base.Row]:
    """Lines `name.jpg#n<TAB>caption`, in file order; the file name is the image_id."""
    out = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if not line.strip():
            continue
        match = _CAPTION.fullmatch(line)
        if match is None:
            raise UserError(f"{where}, line {number}: expected 'name.jpg#n<TAB>caption', not {_text(line[:60])!r}")
        name, n, caption = match.groups()
        undecodable = _text(line) != line.decode("utf-8", "ignore")
        out.append(base.Row(_text(name), None, int(n), _text(caption.removesuffix(b"\r")), undecodable))
    return out


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _official(texts: Path) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for split, file in (("train", "trainImages"), ("val", "devImages"), ("test", "testImages")):
        for name in _text(base.read_member(texts, f"Flickr_8k.{file}.txt")).split():
            if split_of.setdefault(name, split) != split:
                raise UserError(f"{texts}: image {name} is listed for {split_of[name]} and for {split} (Flickr_8k.*Images.txt)")
    return split_of


def _karpathy(path: Path, names: set[str]) -> dict[str, str]:
    try:
        split_of = {image["filename"]: _KARPATHY[image["split"]] for image in read_json(path)["images"]}
    except FileNotFoundError:
        raise UserError(f"{path} (karpathy: in params.yaml) is not there: name the file dataset_flickr8k.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a dataset_flickr8k.json: expected images[].filename and .split ({error!r})") from None
    if not names & split_of.keys():
        raise UserError(f"{path} names none of these images: it is of another dataset")
    return split_of


def _last(names: list[str]) -> dict[str, str]:
    test, val = set(names[-HELD_OUT:]), set(names[-2 * HELD_OUT : -HELD_OUT])
    return {name: "test" if name in test else "val" if name in val else "train" for name in names}
