"""COCO 2014: 123,287 photos, about five captions each (Lin et al., ECCV 2014; Chen et al.,
arXiv:1504.00325).

Split schemes:
    official: train2014 is train, val2014 is val. The captions of test2014 were never published, so
        no image is test. Validation stops a corpus that uses this scheme; only `karpathy` gives a
        test split.
    karpathy: dataset_coco.json of Karpathy and Fei-Fei (CVPR 2015), with 113,287/5,000/5,000
        images; restval goes to train. It exists only if the argument `karpathy` is set.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.ranges import Positive
from pipeline.data.files import whole_folder
from pipeline.sources.shared import base

MIRRORS = (
    "http://images.cocodataset.org/zips/",
    "https://s3.amazonaws.com/images.cocodataset.org/zips/",
)
TRAIN = base.Archive("train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", MIRRORS)
VAL = base.Archive("val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", MIRRORS)
TEXTS = base.Archive(
    "annotations_trainval2014.zip",
    "0a379cfc70b0e71301e0f377548639bd",
    tuple(mirror.replace("/zips/", "/annotations/") for mirror in MIRRORS),
)
SPLIT_IMAGES = {"karpathy": (113_287, 5_000, 5_000), "official": (82_783, 40_504)}
# Size in bytes of train2014.zip, val2014.zip and annotations_trainval2014.zip.
DOWNLOAD_BYTES = 13_510_573_713 + 6_645_013_297 + 252_872_794


def fetch(
    folder: Path, *, archives: str = "", karpathy: str = "", max_images: Positive | None = None
) -> None:
    """Fill `folder` from the public release (20 GB of archives). The file name is the image_id.

    Args:
        archives: a local folder that contains train2014.zip, val2014.zip and
            annotations_trainval2014.zip; if it is empty, they are downloaded. CAPTIONLAB_COCO2014
            takes precedence.
        karpathy: path of dataset_coco.json or of caption_datasets.zip. With `download`, the latter
            is one more archive: downloaded, or expected in the local folder. If it is empty, there
            is no scheme `karpathy`.
        max_images: number of images to keep of every split, the first by id. The splits are those
            of karpathy, or of official without it. Only these images are unpacked, and only their
            captions are in the index; null keeps all.

    Raises:
        UserError: an archive is missing, broken, unsafe or not the published one; an image is in
            two splits; dataset_coco.json is malformed.
    """
    if max_images is not None and max_images < 1:
        raise UserError(f"coco2014: max_images: {max_images}: give at least 1, or null for all")
    wanted = [TRAIN, VAL, TEXTS, *base.karpathy_archive(karpathy)]
    with (
        base.find_archives(folder, "coco2014", wanted, archives) as found,
        whole_folder(folder) as part,
    ):
        captions, official = _captions(found[TEXTS.name])
        schemes, manifest = (
            {"official": official},
            {"source": "coco2014", "archives": base.md5s(found)},
        )
        if karpathy:
            split_of, md5 = base.read_karpathy(
                karpathy, found, "dataset_coco.json", official.keys()
            )
            schemes["karpathy"], manifest["karpathy"] = split_of, md5
        kept = _first(captions, schemes.get("karpathy", official), max_images)
        with base.ShardWriter(part) as photos:
            for archive in (TRAIN, VAL):
                inside = archive.name.removesuffix(".zip")
                base.unpack(found[archive.name], inside, photos.add, kept)
        rows = [
            base.make_row(name, n, text) for name in kept for n, text in enumerate(captions[name])
        ]
        base.write_index(part, rows, schemes, manifest)


def size(*, archives: str = "", karpathy: str = "", max_images: int | None = None) -> base.Size:
    splits = SPLIT_IMAGES["karpathy" if karpathy else "official"]
    images = sum(min(split, max_images or split) for split in splits)
    whole = base.released_size("coco2014", sum(splits), DOWNLOAD_BYTES, archives, karpathy)
    return base.Size(images, whole.disk * images // whole.images, whole.download)


def _captions(texts: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the captions and the split of all images by file name; the captions in the order of
    the image ids."""
    images, official = [], dict[str, str]()
    for split, member in (
        ("train", "annotations/captions_train2014.json"),
        ("val", "annotations/captions_val2014.json"),
    ):
        where = f"{texts}/{member}"
        for image, captions in base.read_coco(base.read_member(texts, member), where):
            base.assign(official, image["file_name"], split, where)
            images.append((image["id"], image["file_name"], captions))
    return {name: captions for _, name, captions in sorted(images)}, official


def _first(
    images: Mapping[str, object], split_of: dict[str, str], most: int | None
) -> dict[str, None]:
    """Return the first `most` images of each split, or all images if it is None, in their order."""
    if most is None:
        return dict.fromkeys(images)
    of_split = {
        split: [image for image in images if split_of.get(image) == split][:most]
        for split in base.SPLITS
    }
    chosen = set().union(*of_split.values())
    return {image: None for image in images if image in chosen}
