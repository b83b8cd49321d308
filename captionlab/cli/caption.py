"""`captionlab caption`: print captions of pictures, or write those of a folder as JSON lines."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captionlab.captioner import Captioner
from captionlab.models import load, open_folder
from pipeline.core.errors import UserError, printable, say

if TYPE_CHECKING:
    from pipeline.captioner.folder import Counts

BATCH = 32


def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", show_default=False)],
    model: Annotated[
        str, typer.Option(help="champion, a variant, a model folder, runs:/... or models:/...")
    ] = "champion",
    beam: Annotated[
        int | None, typer.Option(min=1, help="Beam width; by default the variant's own.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Captions drawn per image; the best is printed.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset whose champion to use, if several have one. Default: that of params.yaml."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Append JSON lines to this file: for folders, resumable.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="With --out: caption on a Ray cluster, its address, or auto for the one that this "
            "machine is part of. All nodes must see pictures and model under the same paths. Lines "
            "are in any order.",
        ),
    ] = None,
) -> None:
    """Print one line per image: file, caption and log-probability, separated by tabs. With --out,
    IMAGE may be a folder.

    The same command with --out continues where it ended, and skips images that are already in the
    file. Images that cannot be read are set aside. captionlab score reads the file.
    """
    if ray is not None:
        from captionlab.running.caption_on_ray import check_options

        check_options(ray, out, model)
    if out is not None:
        return _into_file(out, images, model, beam, samples, dataset, ray)
    for path in images:
        if path.is_dir():
            raise UserError(f"{path} is a folder: say where its captions go, --out captions.jsonl")
    return _print_lines(images, model, beam, samples, dataset)


def _print_lines(
    images: list[Path], model: str, beam: int | None, samples: int | None, dataset: str | None
) -> None:
    captioner = Captioner.load(model, dataset=dataset)
    broken = 0
    for start in range(0, len(images), BATCH):
        for said in captioner.caption(images[start : start + BATCH], beam=beam, samples=samples):
            if said.error:
                say(f"error: {said.image}: {said.error}", file=sys.stderr)
                broken += 1
            else:
                row = (printable(said.image), printable(said.text), f"{said.log_prob:.4f}")
                print("\t".join(row), flush=True)
    if broken:
        raise typer.Exit(2)


def _into_file(
    out: Path,
    images: list[Path],
    model: str,
    beam: int | None,
    samples: int | None,
    dataset: str | None,
    ray: str | None,
) -> None:
    from captionlab.output_files import check_output
    from pipeline.captioner.folder import find_images

    check_output(out, "--out")
    files = find_images(images)
    with open_folder(model, dataset) as folder:
        if ray is None:
            caption = _here(out, files, model, folder, beam, samples)
        else:
            caption = _on_ray(ray, out, files, model, folder, beam, samples)
    counts = caption()
    if not counts.captioned:
        raise UserError(f"none of the {len(files)} images can be read: {out} says why")
    told = f"{counts.captioned} of {len(files)} images captioned, {counts.broken} broken"
    if counts.before:
        told += f"; {counts.before} of them were in the file already"
    say(f"{out}: {told}", file=sys.stderr)


def _here(
    out: Path, files: list[str], model: str, folder: Path, beam: int | None, samples: int | None
) -> Callable[[], "Counts"]:
    from captionlab.running.caption_shard import digests
    from pipeline.captioner.folder import caption_into
    from pipeline.core.machine import workers
    from pipeline.data.files import fingerprint

    captioner = load(folder)
    made_by = fingerprint([digests(folder), captioner.decode, beam, samples])
    return partial(caption_into, out, files, captioner, model, made_by, beam, samples, workers())


def _on_ray(
    ray: str,
    out: Path,
    files: list[str],
    model: str,
    folder: Path,
    beam: int | None,
    samples: int | None,
) -> Callable[[], "Counts"]:
    from captionlab.running.caption_on_ray import caption_on_ray, job_of
    from pipeline.data.files import fingerprint

    job = job_of(folder, beam, samples)
    made_by = fingerprint([job["weights"], job["decode"], beam, samples])
    return partial(caption_on_ray, ray, out, files, model, made_by, job)
