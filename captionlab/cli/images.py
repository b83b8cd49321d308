"""`captionlab images`: write pictures of a data set as files."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core import paths
from pipeline.core.errors import UserError, say


def command(
    dataset: Annotated[str, typer.Argument(help="A data set of params.yaml.", show_default=False)],
    image_ids: Annotated[
        list[str], typer.Argument(metavar="IMAGE_ID...", help="Its images.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files; other files there stay.")] = Path(
        "."
    ),
) -> None:
    """Copy pictures of a data set from its shards to files, byte for byte as published."""
    from pipeline.data.shards import Shards, write_picture
    from pipeline.experiment.params import load_params, pick

    if out.exists() and not out.is_dir():
        raise UserError(f"{out} (--out) is a file: name a folder")
    pick(load_params(), "datasets", dataset)
    found = Shards(paths.RAW / dataset).find(image_ids)
    if missing := [image for image in image_ids if image not in found]:
        raise UserError(
            f"{dataset} has no picture of image '{missing[0]}': the column image_id of "
            f"{paths.RAW / dataset / 'images.parquet'} names those there are"
        )
    for member in found.values():
        file = out / member.file
        if file.exists() and not (file.is_file() and file.read_bytes() == member.read()):
            raise UserError(f"{file} exists already with other content: name a folder with --out")
    for member in found.values():
        say(str(write_picture(member, out)))
