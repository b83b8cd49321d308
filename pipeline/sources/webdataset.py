"""Pictures in tar shards of WebDataset's layout (Aizman, Maltby and Breuel, 2019, 2001.01858), used
in place: only captions are copied.

A sample is the files of one key: a picture, and its captions in .txt or .caption (one per line) or
in .json. The key is the image_id. If a sample has several files of captions, .txt comes before
.caption, and .caption before .json.

Split scheme `random`: shares `val` and `test` of the keys. `seed` and the key decide. A picture
whose file has the same bytes as one that was read before it goes where that one went. So equal
files are in one split, and an image keeps its split when shards are added whose names sort after
those that were there.

Nothing is dropped. A picture without captions gets one empty caption, which is set aside as
`empty`. Captions without a picture stay as rows, which are set aside as `image missing`.
set_aside.parquet lists every file that was not taken, with the reason: a second picture of a key, a
picture that is too large, a .json without a caption, a link, or an invalid name.

DVC does not watch the shards. After a change there, `dvc repro -f -s download@NAME` reads them
again. manifest.json contains the MD5 of each shard, so nothing else runs if the shards have not
changed.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.on_disk import OnDisk
from pipeline.core.ranges import Seed, Share
from pipeline.data.files import digest, whole_folder, write_json
from pipeline.sources.shared import base, tar_shards
from pipeline.sources.shared.caption_tables import decoded, parse_json
from pipeline.sources.shared.gate import LARGE, LARGEST, SUFFIXES, tell
from pipeline.sources.shared.keyed import EqualPictures
from pipeline.sources.shared.shards import INDEX, SCHEMA
from pipeline.sources.shared.tar_shards import File, Passed

# Suffixes of caption files, in order of precedence.
TEXTS = (".txt", ".caption", ".json")
TWICE = "a second picture of its key"
# What is known of a key.
PICTURE, CAPTIONS = 1, 2
# Approximate bytes of captions and index: for the files themselves, and for each image in them.
BYTES, BYTES_PER_IMAGE = 10_000, 150
# Number of shards whose pictures `size` counts. Any others are assumed to contain as many pictures
# per byte.
LOOKED_AT = 8

# A row of the index: image_id, file, shard, offset and size.
Place = tuple[str, str, str, int, int]


@dataclass
class Sample:
    picture: File | None = None
    texts: dict[str, File] = field(default_factory=dict)
    "Files of captions by suffix."


def fetch(
    folder: Path,
    *,
    path: str,
    caption_key: str = "caption",
    val: Share = 0.1,
    test: Share = 0.1,
    seed: Seed = 1,
) -> None:
    """Fill `folder` with the captions of tar shards and an index of their pictures.

    Args:
        path: the folder that contains the shards (*.tar), or a pattern of their paths, with
            {00000..00099}, {a,b}, * and ?.
        caption_key: key of a caption or a list of captions in the .json beside a picture.
        val, test: shares of the scheme `random`.
        seed: random seed of that scheme.

    Raises:
        UserError: there are no such shards, a shard is broken, no picture has captions, or the
            shares leave nothing to train on.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(
            f"webdataset: val: {val}, test: {test}: give shares of at least 0 that leave some "
            "images to train"
        )
    root, shards = tar_shards.find_shards(path)
    tar_shards.check(shards)
    taken = Taken(caption_key)
    with whole_folder(folder) as part:
        split = partial(_equal_pictures(shards).split, val=val, test=test, seed=seed)
        with base.CaptionWriter(part, {"random": split}) as captions:
            _index(part, root, shards, taken, captions)
        if not taken.both:
            raise UserError(
                f"{path} holds no picture with captions: expected files of one key, such as "
                f"1.jpg and 1.txt ({', '.join(TEXTS)}; caption_key names the key of a .json)"
            )
        names = {shard.relative_to(root).as_posix(): digest(shard) for shard in shards}
        told = {"set_aside": len(taken.aside), "pictures": taken.pictures}
        manifest = {"source": "webdataset", "root": str(root), "archives": names, "images": told}
        write_json(part / "manifest.json", manifest)
        _write_aside(part, taken.aside)
    taken.tell()


def _equal_pictures(shards: Iterable[Path]) -> EqualPictures:
    """Return which keys have equal pictures.

    This is known before the first caption is written: the picture of a key may be in a later shard
    than its captions.
    """
    from tqdm import tqdm

    equal = EqualPictures()
    for shard in tqdm(shards, desc="comparing pictures", unit=" shards", disable=None):
        for file in tar_shards.files_of(shard):
            if isinstance(file, File) and _is_picture(file) and file.key not in equal:
                equal.add(file.key, hashlib.md5(tar_shards.read(shard, file)).digest())
    return equal


def _is_picture(file: File) -> bool:
    return file.suffix in SUFFIXES and file.size <= LARGEST


@dataclass
class Taken:
    """What has been found in the shards so far. Memory grows only with what is set aside."""

    caption_key: str
    pictures: int = 0
    told: int = 0
    "Number of keys with captions."
    aside: list[tuple[str, str, str]] = field(default_factory=list)
    "Shard, file and reason of each file that was not taken."
    bare: list[str] = field(default_factory=list)
    "Keys of pictures without captions."
    known: OnDisk = field(default_factory=lambda: OnDisk(1))
    "Key -> what is known of it: the sum of PICTURE and CAPTIONS, or one of them."

    @property
    def both(self) -> bool:
        """Whether at least one picture has captions."""
        return len(self.bare) < self.pictures

    def take(self, shard: Path, name: str) -> tuple[list[Place], list[base.Row]]:
        """Read the samples of a shard; return its rows of the index, and its captions."""
        files = list(tar_shards.files_of(shard))
        known = {file.key: self._known(file.key) for file in files if isinstance(file, File)}
        places: list[Place] = []
        rows: list[base.Row] = []
        for key, sample in self._samples(files, name, known).items():
            captions = self._captions(shard, name, key, sample)
            if picture := sample.picture:
                known[key] |= PICTURE
                self.pictures += 1
                places.append((key, picture.name, name, picture.offset, picture.size))
                if not captions and not known[key] & CAPTIONS:
                    self.bare.append(key)
                    captions = [""]
            if captions:
                self.told += not known[key] & CAPTIONS
                known[key] |= CAPTIONS
                rows += [base.make_row(key, n, text) for n, text in enumerate(captions)]
        self.known.put(known.items())
        return places, rows

    def _known(self, key: str) -> int:
        found = self.known.get(key)
        return found[0] if found else 0

    def _samples(
        self, files: Iterable[File | Passed], name: str, known: dict[str, int]
    ) -> dict[str, Sample]:
        samples: dict[str, Sample] = {}
        for file in files:
            reason = self._reason_against(file, samples, known)
            if reason:
                self.aside.append((name, base.printable(file.name), reason))
            elif isinstance(file, File):
                sample = samples.setdefault(file.key, Sample())
                if file.suffix in SUFFIXES:
                    sample.picture = file
                elif file.suffix in TEXTS:
                    sample.texts[file.suffix] = file
        return samples

    def _reason_against(
        self, file: File | Passed, samples: dict[str, Sample], known: dict[str, int]
    ) -> str:
        if isinstance(file, Passed):
            return file.reason
        sample = samples.get(file.key, Sample())
        if file.suffix in SUFFIXES:
            if known[file.key] & PICTURE or sample.picture:
                return TWICE
            return LARGE if file.size > LARGEST else ""
        if file.suffix in TEXTS:
            if known[file.key] & CAPTIONS or file.suffix in sample.texts:
                return "second captions of its key"
            return LARGE if file.size > LARGEST else ""
        return ""

    def _captions(self, shard: Path, name: str, key: str, sample: Sample) -> list[str]:
        for suffix in TEXTS:
            if suffix in sample.texts:
                file = sample.texts[suffix]
                try:
                    text = decoded(tar_shards.read(shard, file), "the file")
                    captions = (
                        _of_json(text, self.caption_key)
                        if suffix == ".json"
                        else [line.strip() for line in text.split("\n")]
                    )
                except UserError as error:
                    self.aside.append((name, base.printable(file.name), str(error)))
                    continue
                if captions := [caption for caption in captions if caption]:
                    return captions
        return []

    def tell(self) -> None:
        """Report on standard error what was set aside, and why."""
        reasons = dict.fromkeys(reason for _, _, reason in self.aside)
        for reason in list(reasons)[:5]:
            files = [f"{shard}/{file}" for shard, file, why in self.aside if why == reason]
            tell("webdataset", f"files set aside: {reason}", files)
        tell(
            "webdataset",
            "pictures without captions, to be set aside as 'empty'",
            self.bare,
            self.pictures,
        )
        tell(
            "webdataset",
            "captions without a picture, to be set aside as 'image missing'",
            [key for key, known in self.known if known == CAPTIONS],
            self.told,
        )


def _of_json(text: str, key: str) -> list[str]:
    found = parse_json(text, "the file")
    found = found.get(key) if isinstance(found, dict) else found
    captions: list[Any] = found if isinstance(found, list) else [found]
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"no caption, or list of captions, as '{key}'")
    return [caption.strip() for caption in captions]


def _index(
    part: Path, root: Path, shards: Iterable[Path], taken: Taken, captions: base.CaptionWriter
) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    from tqdm import tqdm

    with parquet.ParquetWriter(part / INDEX, SCHEMA) as index:
        for shard in tqdm(shards, desc="reading shards", unit=" shards", disable=None):
            places, rows = taken.take(shard, shard.relative_to(root).as_posix())
            captions.add(rows)
            columns = zip(*places, strict=True) if places else [()] * len(SCHEMA)
            index.write_table(pa.table(dict(zip(SCHEMA.names, columns, strict=True)), SCHEMA))


def _write_aside(part: Path, aside: list[tuple[str, str, str]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, pa.string()) for name in ("shard", "file", "reason")])
    columns = zip(*aside, strict=True) if aside else [()] * 3
    table = pa.table(dict(zip(schema.names, columns, strict=True)), schema)
    parquet.write_table(table, part / "set_aside.parquet")


def _bytes(shards: list[Path]) -> int:
    return sum(shard.stat().st_size for shard in shards)


def size(*, path: str, **_: Any) -> base.Size:
    """Return the approximate size, from the pictures of the first shards.

    Raises:
        UserError: there are no such shards, or one of the first is not a tar file.
    """
    shards = tar_shards.find_shards(path)[1]
    some = shards[:LOOKED_AT]
    tar_shards.check(some)
    pictures = sum(
        isinstance(file, File) and file.suffix in SUFFIXES
        for shard in some
        for file in tar_shards.files_of(shard)
    )
    images = round(pictures * _bytes(shards) / _bytes(some))
    return base.Size(images, BYTES + BYTES_PER_IMAGE * images, 0)
