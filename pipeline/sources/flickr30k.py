"""Flickr30k: 31,783 photos of everyday scenes, five captions each (Young, Lai, Hodosh and
Hockenmaier, TACL 2014).

Split schemes:
    karpathy: dataset_flickr30k.json of Karpathy and Fei-Fei (CVPR 2015), 29,000/1,014/1,000 images;
        there where `karpathy` says so. Photos that it does not name are in no split.
    last: in the order of the caption file, the last 1,000 photos are test, the 1,000 before them
        val, the rest train. Systems without a validation set train on those 1,000 as well: a
        deviation to be named beside their rows.
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
TOKENS = "results_20130124.token"
"the authors' own caption file, beside their folder flickr30k-images"
TEXTS = ("captions.txt", TOKENS, "results.csv")
"caption files of the releases in use; they differ in columns and delimiter, which the header tells"
IMAGE, CAPTION = ("image", "image_name"), ("caption", "comment")
NUMBERED = re.compile(r"(\d+)\s+(\S.*)")
"a comment's number and the comment, where the bar between them is missing"
HELD_OUT = 1000
"images in test, and in val, of the scheme `last`"
IMAGES = 31_783
DOWNLOAD_BYTES = 4_400_000_000
"of the three parts, rounded"


def fetch(folder: Path, *, archives: str = "", karpathy: str = "") -> None:
    """Fill `folder` from the public release (4.4 GB); the file name is the image_id.

    Args:
        archives: a local folder that holds flickr30k.zip or its three parts, or what the authors'
            own archives unpack to: results_20130124.token and flickr30k-images/; empty: download
            the parts. CAPTIONLAB_FLICKR30K takes precedence.
        karpathy: path of dataset_flickr30k.json or of caption_datasets.zip; `download`: the latter
            is one more archive;
            empty: no scheme `karpathy`.

    Raises:
        UserError: an archive is missing, broken, unsafe or not the published one; a malformed line;
            a dataset_flickr30k.json that is none.
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
    """The captions; their photos lie in the folder that holds most of the archive's .jpg files."""
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
    gate = Gate(given / "flickr30k-images", follow_links=True)  # of the user's own making
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
    """Lines `image,caption` or `image_name,comment_number,comment`; no caption of Flickr30k has a
    line break.

    A caption whose commas were left without quotes is the rest of its line, blanks and quotes as
    they stand there. In one published line the bar between number and caption is missing.
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
    """So many at most, without the blanks around them: what is no CSV of `count` fields is parted
    at its first delimiters, and nothing else is taken from it."""
    line = line.removesuffix("\r")
    try:
        fields = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        fields = []
    fields = fields if len(fields) == count else line.split(delimiter, count - 1)
    return [field.strip() for field in fields]
