"""`captionlab speed`: measure the speeds that the report shows beside the scores."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.core import paths
from pipeline.core.errors import UserError, say

if TYPE_CHECKING:
    from captionlab.speed import Material
    from pipeline.experiment.params import Params


def command(
    variants: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VARIANT]...", show_default=False, help="By default every trained one."
        ),
    ] = None,
) -> None:
    """Measure captions and images per second of trained variants, and write them to
    reports/speed.json. The report of the next dvc repro shows them."""
    from captionlab.models import load
    from captionlab.speed import measure
    from pipeline.core.git import code_commit
    from pipeline.data.files import write_json
    from pipeline.experiment.params import load_params, pick
    from pipeline.report.cost_table import read_speeds
    from pipeline.results.decoding import decoding_text

    params = load_params()
    known = {
        name: asdict(speed)
        for name, speed in read_speeds(paths.SPEED).items()
        if name in params.variants
    }
    encoders: dict[str, float] = {}
    chosen = {
        name: pick(params, "variants", name).features for name in variants or _trained(params)
    }
    for name, features in chosen.items():
        entry = measure(load(paths.MODELS / name), _material(params, name), encoders.get(features))
        encoders[features] = entry["images_per_second"]
        told = {
            "commit": code_commit(["pipeline", "params.yaml", "requirements"]),
            "decoding": decoding_text(params.decoding(name)),
        }
        known[name] = {**entry, **told}
        write_json(paths.SPEED, known)
        say(_line(name, entry))


def _trained(params: "Params") -> list[str]:
    found = [
        name for name in params.variants if (paths.MODELS / name / "model.safetensors").is_file()
    ]
    if not found:
        raise UserError(f"no variant of params.yaml is in {paths.MODELS}/: run dvc repro first")
    return found


def _material(params: "Params", name: str) -> "Material":
    """Return some test images of the variant's corpus, evenly spread over the ids."""
    from captionlab.speed import TOGETHER, Material
    from pipeline.data.corpus import Captions, spread
    from pipeline.data.shards import Shards
    from pipeline.features.store import FeatureStore

    variant = params.variants[name]
    store = FeatureStore(paths.FEATURES / variant.features)
    images = Captions(paths.CORPORA / variant.corpus / "captions.parquet", ["test"], ["image_id"])
    ids = spread((image for image in images["image_id"] if image in store.ids), TOGETHER)
    shards = Shards(paths.RAW / params.corpora[variant.corpus].dataset)
    return Material(store, ids, list(shards.find(ids).values()))


def _line(name: str, entry: dict[str, Any]) -> str:
    rates = ", ".join(
        f"{rate:g} captions/s at batch {batch}"
        for batch, rate in entry["captions_per_second"].items()
    )
    return f"{name}: {rates}; encoder {entry['images_per_second']:g} images/s; {entry['machine']}"
