"""`captionlab caption`: pictures -> lines of text, or a folder of them -> a file of JSON lines."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captionlab.models import load, open_captioner, open_folder
from pipeline.core.errors import UserError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 32


def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", show_default=False)],
    model: Annotated[
        str, typer.Option(help="champion, a variant of models/, or a model folder.")
    ] = "champion",
    beam: Annotated[
        int | None, typer.Option(min=1, help="Beam width; by default the variant's own.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Captions drawn per image; the best is printed.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Whose champion, when there are several.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Append JSON lines to this file: for folders, resumable.")
    ] = None,
) -> None:
    """Print one line per image: file, caption, log-probability, parted by tabs. With --out, IMAGE
    may be a folder.

    Run again, --out goes on where it ended and skips what stands in the file. Images that cannot be
    read are set aside. What --out writes, captionlab score reads.
    """
    if out is not None:
        return _into_file(out, images, model, beam, samples, dataset)
    for path in images:
        if path.is_dir():
            raise UserError(f"{path} is a folder: say where its captions go, --out captions.jsonl")
    return _print_lines(images, model, beam, samples, dataset)


def _print_lines(
    images: list[Path], model: str, beam: int | None, samples: int | None, dataset: str | None
) -> None:
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
    from pipeline.data.images import ImageError, read_image

    out = []
    for path in paths:
        try:
            out.append((path, read_image(path)))
        except ImageError as error:
            print(f"error: {path}: {one_line(error)}", file=sys.stderr, flush=True)
    return out


def _into_file(
    out: Path,
    images: list[Path],
    model: str,
    beam: int | None,
    samples: int | None,
    dataset: str | None,
) -> None:
    from pipeline.captioning.folder import caption_into, check_out, find_images

    check_out(out)
    files = find_images(images)

    from pipeline.core.machine import workers
    from pipeline.data.files import digest, fingerprint

    with open_folder(model, dataset) as folder:
        captioner = load(folder)
        weights = [
            digest(folder / name) for name in ("config.json", "model.safetensors", "tokenizer.json")
        ]
    made_by = fingerprint([weights, captioner.decode, beam, samples])
    counts = caption_into(out, files, captioner, model, made_by, beam, samples, workers())
    if not counts.captioned:
        raise UserError(f"none of the {len(files)} images can be read: {out} says why")
    told = (
        f"{counts.captioned} captioned ({counts.before} images were there before), "
        f"{counts.broken} set aside as broken"
    )
    print(f"{out}: {told}", file=sys.stderr)
