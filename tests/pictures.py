"""The pictures of a data set in tests: written into its shards, read back, exchanged."""

import io
import shutil
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from pipeline.data.shards import Shards
from pipeline.sources.shared import shards


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def put_pictures(
    folder: Path, pictures: Mapping[str, Image.Image | bytes], suffix: str = ".png"
) -> Shards:
    """Args: pictures: by image_id."""
    folder.mkdir(parents=True, exist_ok=True)
    with shards.ShardWriter(folder) as writer:
        for image_id, picture in pictures.items():
            content = png(picture) if isinstance(picture, Image.Image) else picture
            writer.add(image_id, content, suffix)
    return Shards(folder)


def pictures_of(folder: Path) -> dict[str, bytes]:
    """The file of each picture of data/raw/D, by image_id."""
    return {member.image_id: member.read() for member in Shards(folder)}


def exchange(folder: Path, **changes: Image.Image | bytes | None) -> None:
    """Write the shards of data/raw/D again with other pictures; None: without that one."""
    kept = {**pictures_of(folder), **changes}
    suffix = Path(next(iter(Shards(folder))).file).suffix
    shutil.rmtree(folder / shards.FOLDER)
    (folder / shards.INDEX).unlink()  # it may be a link to another workspace's
    put_pictures(folder, {i: picture for i, picture in kept.items() if picture is not None}, suffix)
