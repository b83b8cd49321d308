"""`captionlab caption`: pictures -> lines of text."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands._models import open_captioner
from pipeline.errors import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 32


def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", show_default=False)],
    model: Annotated[str, typer.Option(help="champion, a variant of models/, or a model folder.")] = "champion",
    beam: Annotated[int | None, typer.Option(min=1, help="Beam width; by default the variant's own.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Captions drawn per image; the best is printed.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Whose champion, when there are several.")] = None,
) -> None:
    """Print one line per image: file, caption, log-probability, parted by tabs."""
    captioner = open_captioner(model, dataset)
    captioned = 0
    for start in range(0, len(images), BATCH):
        readable = _readable(images[start : start + BATCH])
        found = captioner.caption([picture for _, picture in readable], beam, samples)
        for (path, _), said in zip(readable, found, strict=True):
            print(f"{path}\t{said.text}\t{said.log_prob:.4f}", flush=True)
        captioned += len(found)
    if captioned < len(images):
        raise typer.Exit(2)


def _readable(paths: list[Path]) -> "list[tuple[Path, Image]]":
    """The images that can be decoded; for each of the others a line on stderr."""
    from pipeline.images import ImageError, read_image

    out = []
    for path in paths:
        try:
            out.append((path, read_image(path)))
        except ImageError as error:
            print(f"error: {path}: {one_line(error)}", file=sys.stderr, flush=True)
    return out
