"""`captionlab speed`: what the report shows beside the scores."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import layout
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.params import Params
    from pipeline.speed import Material


def command(
    variants: Annotated[
        list[str] | None, typer.Argument(metavar="[VARIANT]...", show_default=False, help="By default every trained one.")
    ] = None,
) -> None:
    """Measure captions and images per second of trained variants, into reports/speed.json; dvc repro then shows them."""
    from pipeline.commands._models import load
    from pipeline.commit import code_commit
    from pipeline.files import read_json, write_json
    from pipeline.params import load_params, pick
    from pipeline.results import decoding_text
    from pipeline.speed import measure

    params = load_params()
    known: dict[str, Any] = read_json(layout.SPEED) if layout.SPEED.is_file() else {}
    known = {name: entry for name, entry in known.items() if name in params.variants}
    encoders: dict[str, float] = {}
    chosen = {name: pick(params, "variants", name).features for name in variants or _trained(params)}
    for name, features in chosen.items():
        entry = measure(load(layout.MODELS / name), _material(params, name), encoders.get(features))
        encoders[features] = entry["images_per_second"]
        told = {
            "commit": code_commit(["pipeline", "params.yaml", "requirements"]),
            "decoding": decoding_text(params.decoding(name)),
        }
        known[name] = {**entry, **told}
        write_json(layout.SPEED, known)
        print(_line(name, entry), flush=True)


def _trained(params: "Params") -> list[str]:
    found = [name for name in params.variants if (layout.MODELS / name / "model.safetensors").is_file()]
    if not found:
        raise UserError(f"no variant of params.yaml is in {layout.MODELS}/: run dvc repro first")
    return found


def _material(params: "Params", name: str) -> "Material":
    """The test images of the variant's corpus, some of them, evenly through the ids."""
    from pipeline.corpus import Captions, image_files, spread
    from pipeline.features import FeatureStore
    from pipeline.speed import TOGETHER, Material

    variant = params.variants[name]
    store, raw = FeatureStore(layout.FEATURES / variant.features), layout.RAW / params.corpora[variant.corpus].dataset
    files: dict[str, Path] = {}
    for rows in Captions(layout.CORPORA / variant.corpus / "captions.parquet", ["test"], ["image_id", "file"]):
        files = image_files(rows, raw) | files
    ids = spread((image for image in files if image in store.ids), TOGETHER)
    return Material(store, ids, [files[image] for image in ids])


def _line(name: str, entry: dict[str, Any]) -> str:
    rates = ", ".join(f"{rate:g} captions/s at batch {batch}" for batch, rate in entry["captions_per_second"].items())
    return f"{name}: {rates}; encoder {entry['images_per_second']:g} images/s; {entry['machine']}"
