"""`captionlab register | caption | score | sync | plan | results`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline import errors, layout
from pipeline.errors import UserError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.captioner import Captioner
    from pipeline.tracking_registry import Choice

BATCH = 32

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    errors.run(_run)


def _run() -> None:
    from typer.exceptions import TyperException

    try:
        status = app(standalone_mode=False)
    except TyperException as error:
        raise UserError(f"{error.format_message()} (captionlab --help)") from None
    if status:
        sys.exit(status)


@app.callback()
def captionlab() -> None:
    """Image captioning: what DVC has trained, registered and used."""


@app.command()
def register(
    metric: Annotated[str, typer.Option(help="Compared on the validation split, never on test.")] = "cider",
    dataset: Annotated[str | None, typer.Option(help="Needed when there are runs of several.")] = None,
) -> None:
    """Register the variant with the best validation score in MLflow as `champion`."""
    from pipeline.files import read_json
    from pipeline.tracking_registry import register as register_best
    from pipeline.tracking_store import open_store

    current = {path.stem: read_json(path)["fingerprint"] for path in layout.RUNS.glob("*.json")}
    _print_choice(register_best(open_store(), dataset, metric, current))


def _print_choice(choice: "Choice") -> None:
    best = choice.ranking[0]
    print(f"{'variant':<24} {'val.' + choice.metric:>12} {'test.' + choice.metric:>14}  corpus")
    for row in choice.ranking:
        print(f"{row.variant:<24} {_number(row.val):>12} {_number(row.test):>14}  {row.corpus}")
    corpora = sorted({row.corpus for row in choice.ranking})
    if len(corpora) > 1:
        print(f"note: corpora {', '.join(corpora)} may differ in their validation images: such scores compare with care")
    state = "registered" if choice.is_new else "was registered already"
    print(f"{choice.model} version {choice.version} ({best.variant}) {state} and has the alias champion:", end=" ")
    print(f"val.{choice.metric} {_number(best.val)} is the best of {len(choice.ranking)}")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


@app.command()
def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", show_default=False)],
    model: Annotated[str, typer.Option(help="champion, a variant of models/, or a model folder.")] = "champion",
    beam: Annotated[int | None, typer.Option(min=1, help="Beam width; by default the variant's own.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Captions drawn per image; the best is printed.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Whose champion, when there are several.")] = None,
) -> None:
    """Print one line per image: file, caption, log-probability, parted by tabs."""
    captioner = _captioner(model, dataset)
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


def _captioner(model: str, dataset: str | None) -> "Captioner":
    if model != "champion":
        return _load(_folder(model))
    from pipeline.tracking_registry import champion_folder
    from pipeline.tracking_store import open_store

    with champion_folder(open_store(), dataset) as folder:
        return _load(folder)


def _folder(model: str) -> Path:
    for folder in (layout.MODELS / model, Path(model)):
        if folder.is_dir():
            return folder
    known = ["champion", *sorted(path.name for path in layout.MODELS.glob("[!.]*") if path.is_dir())]
    raise UserError(f"unknown model '{model}': there are {', '.join(known)}, or name a model folder")


def _load(folder: Path) -> "Captioner":
    """A variant of this workspace decodes as params.yaml says, any other folder as its decode.json does."""
    from pipeline.captioner import Captioner
    from pipeline.params import load_params

    if folder.resolve().parent != layout.MODELS.resolve():
        return Captioner.load(folder)
    params = load_params()
    decode = params.decoding(folder.name).model_dump() if folder.name in params.variants else None
    return Captioner.load(folder, decode=decode)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(show_default=False, help="One caption an image.")],
    references: Annotated[Path, typer.Argument(show_default=False, help="One or more captions an image.")],
    metrics: Annotated[
        str, typer.Option(help="Parted by commas; spice needs models of its own.")
    ] = "bleu,meteor,rouge_l,cider",
    protocol: Annotated[
        Literal["standard", "raw"], typer.Option(help="standard: PTB tokenizer on both; raw: none.")
    ] = "standard",
    split: Annotated[str | None, typer.Option(help="Only rows whose column `split` says so.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out images without a prediction.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, too.")] = None,
) -> None:
    """Score a file of captions against a file of references: COCO's JSON, {image_id: text}, JSON lines, CSV or Parquet."""
    from pipeline.caption_files import match, read_predictions, read_references
    from pipeline.files import write_json
    from pipeline.registry import find

    names = list(dict.fromkeys(name.strip() for name in metrics.split(",")))
    for name in names:
        find("metrics", name)
    if out is not None and out.is_dir():
        raise UserError(f"{out} (--out) is a folder: name a file")
    known = read_references(references, split)
    said, matched = match(read_predictions(predictions, split), known, partial)

    from pipeline.standalone import evaluate, render

    evaluation = evaluate(said, matched, names, protocol, left_out=len(known) - len(matched))
    if out is not None:
        write_json(out, evaluation.as_json())
    print(render(evaluation))


@app.command()
def sync(
    quiet: Annotated[bool, typer.Option("--quiet", help="Only what changed or failed; a dead server is a warning.")] = False,
) -> None:
    """Publish to MLflow every finished variant of this workspace that it does not hold yet."""
    from pipeline.tracking import warn
    from pipeline.tracking_store import StoreDown

    try:
        _publish_all(quiet)
    except StoreDown as down:
        if not quiet:
            raise
        warn(f"{down}: nothing is lost, captionlab sync publishes it later")


def _publish_all(quiet: bool) -> None:
    from pipeline.params import load_params
    from pipeline.tracking_payload import gather
    from pipeline.tracking_publish import publish
    from pipeline.tracking_store import StoreDown, open_store

    params = load_params()
    store = open_store()
    waiting = [path.stem for path in sorted(layout.RUNS.glob("*.pending"))]
    for name in dict.fromkeys([*params.variants, *waiting]):
        try:
            is_new = publish(store, gather(name, params, layout))
            (layout.RUNS / f"{name}.pending").unlink(missing_ok=True)
            state = "published" if is_new else "was published already"
        except StoreDown:
            raise
        except UserError as error:
            is_new, state = True, f"left out: {one_line(error)}"
        if is_new or not quiet:
            print(f"{name}: {state}", flush=True)


@app.command()
def plan(
    experiment: Annotated[Path, typer.Argument(metavar="FILE", help="An experiment.")] = Path("params.yaml"),
) -> None:
    """Print what an experiment would cost: parameters, disk and downloads of every row, and the paper's row beside it."""
    from pipeline.params import load_params
    from pipeline.plan import plan as make_plan
    from pipeline.plan import render

    print(render(make_plan(load_params(experiment), layout.CORPORA), str(experiment)))


@app.command()
def results() -> None:
    """Print the result table, and where the page and the runs are."""
    from pipeline.tracking_store import tracking_uri, without_password

    table, page, uri = layout.TABLES / "all.md", layout.REPORTS / "index.html", without_password(tracking_uri())
    print(table.read_text(encoding="utf-8").rstrip() if table.is_file() else f"no table yet ({table}): run dvc repro")
    if page.is_file():
        print(f"\npage:   {page.resolve()}")
    print(f"MLflow: {uri}" if uri.startswith("http") else f"MLflow: mlflow ui --backend-store-uri {uri}")


if __name__ == "__main__":
    main()
