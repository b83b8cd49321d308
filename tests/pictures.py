"""Write the pictures of a test data set into its shards, read them back, or replace them."""

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
    """Write the shards of a data set. `pictures` maps each image_id to its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    with shards.ShardWriter(folder) as writer:
        for image_id, picture in pictures.items():
            content = png(picture) if isinstance(picture, Image.Image) else picture
            writer.add(image_id, content, suffix)
    return Shards(folder)


def pictures_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each picture file of data/raw/D, by image_id."""
    return {member.image_id: member.read() for member in Shards(folder)}


def exchange(folder: Path, **changes: Image.Image | bytes | None) -> None:
    """Rewrite the shards of data/raw/D with some pictures changed; None removes a picture."""
    kept = {**pictures_of(folder), **changes}
    suffix = Path(next(iter(Shards(folder))).file).suffix
    shutil.rmtree(folder / shards.FOLDER)
    (folder / shards.INDEX).unlink()  # It may be a link to the index of another workspace.
    put_pictures(folder, {i: picture for i, picture in kept.items() if picture is not None}, suffix)
