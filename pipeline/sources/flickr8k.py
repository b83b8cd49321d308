"""Flickr8k: 8,091 photos of everyday scenes, five captions each (Hodosh, Young and Hockenmaier,
JAIR 47, 2013).

Split schemes:
    official: Flickr_8k.{train,dev,test}Images.txt, with 6,000/1,000/1,000 images; 91 photos are in
        no split.
    karpathy: dataset_flickr8k.json of Karpathy and Fei-Fei (CVPR 2015). It exists only if the
        argument `karpathy` is set.
    last: in the order of Flickr8k.token.txt, the last 1,000 photos are test, the 1,000 before them
        are val, and the rest are train. Systems without a validation set also train on the val
        photos; name this deviation beside their rows.
"""

from pathlib import Path

from pipeline.data.files import whole_folder
from pipeline.sources.shared import base

MIRRORS = (
    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/",
    "http://nlp.cs.illinois.edu/HockenmaierGroup/Framing_Image_Description/",
)
PHOTOS = base.Archive("Flickr8k_Dataset.zip", "f18a1e2920de5bd84dae7cf08ec78978", MIRRORS)
TEXTS = base.Archive("Flickr8k_text.zip", "bf6c1abcb8e4a833b7f922104de18627", MIRRORS)
# The release spells it this way.
FOLDER = "Flicker8k_Dataset"
# Number of images in test, and in val, of the scheme `last`.
HELD_OUT = 1000
IMAGES = 8_091
# Size of the two archives in bytes, rounded.
DOWNLOAD_BYTES = 1_120_000_000


def fetch(folder: Path, *, archives: str = "", karpathy: str = "") -> None:
    """Fill `folder` from the two archives of the public release.

    Args:
        archives: a local folder that contains Flickr8k_Dataset.zip and Flickr8k_text.zip; if it is
            empty, they are downloaded. CAPTIONLAB_FLICKR8K takes precedence.
        karpathy: path of dataset_flickr8k.json or of caption_datasets.zip. With `download`, the
            latter is one more archive: downloaded, or expected in the local folder. If it is empty,
            there is no scheme `karpathy`.

    Raises:
        UserError: an archive is missing, broken, unsafe or not the published one; a line is
            malformed; an image is in two splits; dataset_flickr8k.json is malformed.
    """
    wanted = [PHOTOS, TEXTS, *base.karpathy_archive(karpathy)]
    with (
        base.find_archives(folder, "flickr8k", wanted, archives) as found,
        whole_folder(folder) as part,
    ):
        texts = found[TEXTS.name]
        rows = base.read_tokens(
            base.read_member(texts, "Flickr8k.token.txt"), f"{texts}/Flickr8k.token.txt"
        )
        manifest: dict[str, object] = {"source": "flickr8k", "archives": base.md5s(found)}
        schemes = {"official": _official(texts)}
        if karpathy:
            images = {row.image_id for row in rows}
            schemes["karpathy"], manifest["karpathy"] = base.read_karpathy(
                karpathy, found, "dataset_flickr8k.json", images
            )
        with base.ShardWriter(part) as photos:
            named = {row.image_id for row in rows}
            base.unpack(found[PHOTOS.name], FOLDER, photos.add, named)
        there = (row.image_id for row in rows if row.image_id in photos)
        schemes["last"] = base.last_images(there, HELD_OUT)
        base.write_index(part, rows, schemes, manifest)


def size(*, archives: str = "", karpathy: str = "") -> base.Size:
    return base.released_size("flickr8k", IMAGES, DOWNLOAD_BYTES, archives, karpathy)


def _official(texts: Path) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for split, file in (("train", "trainImages"), ("val", "devImages"), ("test", "testImages")):
        for name in (
            base.read_member(texts, f"Flickr_8k.{file}.txt")
            .decode("utf-8", "backslashreplace")
            .split()
        ):
            base.assign(split_of, name, split, f"{texts}/Flickr_8k.*Images.txt")
    return split_of
