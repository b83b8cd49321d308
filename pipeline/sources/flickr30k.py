"""Flickr30k: 31,783 photos of everyday scenes, five captions each (Young, Lai, Hodosh and
Hockenmaier, TACL 2014).

Split schemes:
    karpathy: dataset_flickr30k.json of Karpathy and Fei-Fei (CVPR 2015), with 29,000/1,014/1,000
        images. It exists only if the argument `karpathy` is set. Photos that the file does not name
        are in no split.
    last: in the order of the caption file, the last 1,000 photos are test, the 1,000 before them
        are val, and the rest are train. Systems without a validation set also train on the val
        photos; name this deviation beside their rows.
"""

import csv
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.core.errors import UserError
from pipeline.data.files import digest, whole_folder
from pipeline.sources.shared import base
from pipeline.sources.shared.gate import Gate

RELEASE = base.Archive(
    "flickr30k.zip",
    "",
    ("https://github.com/awsaf49/flickr-dataset/releases/download/v1.0/",),
    ("flickr30k_part00", "flickr30k_part01", "flickr30k_part02"),
)
# The authors' own caption file, beside their folder flickr30k-images.
TOKENS = "results_20130124.token"
# Caption files of the releases in use. They differ in columns and delimiter, which the header
# shows.
TEXTS = ("captions.txt", TOKENS, "results.csv")
IMAGE, CAPTION = ("image", "image_name"), ("caption", "comment")
# A comment's number and the comment, if the bar between them is missing.
NUMBERED = re.compile(r"(\d+)\s+(\S.*)")
# Number of images in test, and in val, of the scheme `last`.
HELD_OUT = 1000
IMAGES = 31_783
# Size of the three parts in bytes, rounded.
DOWNLOAD_BYTES = 4_400_000_000


def fetch(folder: Path, *, archives: str = "", karpathy: str = "") -> None:
    """Fill `folder` from the public release (4.4 GB). The file name is the image_id.

    Args:
        archives: a local folder that contains flickr30k.zip or its three parts, or the unpacked
            archives of the authors (results_20130124.token and flickr30k-images/). If it is empty,
            the parts are downloaded. CAPTIONLAB_FLICKR30K takes precedence.
        karpathy: path of dataset_flickr30k.json or of caption_datasets.zip. With `download`, the
            latter is one more archive: downloaded, or expected in the local folder. If it is empty,
            there is no scheme `karpathy`.

    Raises:
        UserError: an archive is missing, broken, unsafe or not the published one; a line is
            malformed; dataset_flickr30k.json is malformed.
    """
    local, _ = base.local_folder("flickr30k", archives)
    unpacked = local if local and (local / TOKENS).is_file() else None
    wanted = [*([] if unpacked else [RELEASE]), *base.karpathy_archive(karpathy)]
    with (
        base.find_archives(folder, "flickr30k", wanted, archives) as found,
        whole_folder(folder) as part,
    ):
        with base.ShardWriter(part) as photos:
            read = _copied if unpacked else _from_zip
            rows = read(unpacked or found[RELEASE.name], photos)
        md5s = base.md5s(found) | ({TOKENS: digest(unpacked / TOKENS)} if unpacked else {})
        manifest: dict[str, object] = {"source": "flickr30k", "archives": md5s}
        schemes = {}
        if karpathy:
            images = {row.image_id for row in rows}
            schemes["karpathy"], manifest["karpathy"] = base.read_karpathy(
                karpathy, found, "dataset_flickr30k.json", images
            )
        there = (row.image_id for row in rows if row.image_id in photos)
        schemes["last"] = base.last_images(there, HELD_OUT)
        base.write_index(part, rows, schemes, manifest)


def size(*, archives: str = "", karpathy: str = "") -> base.Size:
    return base.released_size("flickr30k", IMAGES, DOWNLOAD_BYTES, archives, karpathy)


def _from_zip(path: Path, shards: base.ShardWriter) -> list[base.Row]:
    """Return the captions, and add their photos to the shards.

    The photos are in the folder that contains most of the archive's .jpg files.
    """
    members = [PurePosixPath(name) for name in base.names(path)]
    texts = [member for name in TEXTS for member in members if member.name == name]
    if not texts:
        raise UserError(
            f"{path} holds no {' or '.join(TEXTS)}: it is not the archive that was published"
        )
    folders = [member.parent for member in members if member.suffix.lower() == ".jpg"]
    if not folders:
        raise UserError(f"{path} holds no .jpg files: it is not the archive that was published")
    rows = _captions(base.read_member(path, str(texts[0])), f"{path}/{texts[0]}")
    inside = str(Counter(folders).most_common(1)[0][0])
    base.unpack(path, inside, shards.add, {row.image_id for row in rows})
    return rows


def _copied(given: Path, shards: base.ShardWriter) -> list[base.Row]:
    from tqdm import tqdm

    rows = _captions((given / TOKENS).read_bytes(), str(given / TOKENS))
    gate = Gate(given / "flickr30k-images", follow_links=True)  # the user unpacked it
    photos = sorted(photo for photo in gate.root.glob("*.jpg") if gate.takes(photo.name))
    gate.tell("flickr30k")
    if not photos:
        raise UserError(
            f"{given} holds {TOKENS}, but no photos in flickr30k-images/: unpack "
            "flickr30k-images.tar there"
        )
    named = {row.image_id for row in rows}
    for photo in tqdm(photos, desc="copying photos", unit=" files", disable=None):
        if photo.name in named:
            shards.add(photo.name, photo.read_bytes())
    return rows


def _captions(data: bytes, where: str) -> list[base.Row]:
    header = data.removeprefix(BOM_UTF8).partition(b"\n")[0]
    return base.read_tokens(data, where) if b"\t" in header else list(_table(data, where))


def _table(data: bytes, where: str) -> Iterator[base.Row]:
    """Yield the captions of lines `image,caption` or `image_name,comment_number,comment`.

    No caption of Flickr30k has a line break. A caption whose commas are not quoted is the rest of
    its line, with its inner blanks and quotes as they are. One published line lacks the bar between
    number and caption.
    """
    lines = data.removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape").split("\n")
    delimiter = "|" if "|" in lines[0] else ","
    header = _fields(lines[0], delimiter, lines[0].count(delimiter) + 1)
    image_at, caption_at = (
        next((header.index(n) for n in names if n in header), -1) for names in (IMAGE, CAPTION)
    )
    if image_at != 0 or caption_at != len(header) - 1:
        raise UserError(
            f"{where}, line 1: expected a header such as 'image,caption', not "
            f"{base.printable(lines[0][:60])!r}"
        )
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        fields = _fields(line, delimiter, len(header))
        joined = NUMBERED.fullmatch(fields[-1])
        if joined and len(fields) == len(header) - 1:
            fields[-1:] = joined.groups()
        if len(fields) != len(header):
            start = base.printable(line[:60])
            raise UserError(
                f"{where}, line {number}: expected {delimiter.join(header)!r}, not {start!r}"
            )
        yield base.make_row(fields[0], seen[fields[0]], fields[caption_at])
        seen[fields[0]] += 1


def _fields(line: str, delimiter: str, count: int) -> list[str]:
    """Split a line into at most `count` fields, without surrounding blanks.

    A line that is not CSV with `count` fields is split at its first delimiters and not changed
    otherwise.
    """
    line = line.removesuffix("\r")
    try:
        fields = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        fields = []
    fields = fields if len(fields) == count else line.split(delimiter, count - 1)
    return [field.strip() for field in fields]
