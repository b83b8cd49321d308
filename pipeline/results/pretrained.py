"""The pretrained models of a row, and the data set that it is scored on, by their names in
params.yaml."""

from collections.abc import Iterator
from inspect import Parameter
from typing import Any

from pipeline.core import registry
from pipeline.experiment.params import Dataset, Params

# Argument that names a model -> argument that says where its weights come from.
WEIGHTS = {
    "model": "weights",
    "encoder": "weights",
    "decoder": "weights",
    "clip": "clip_weights",
    "lm": "lm_weights",
}
# Values that stand for the model's own weights. Any other value except `random` is a file.
OWN = ("hub", "package", "pretrained")
# Argument that names a file of weights, which replace those of `lm`.
INSTEAD = "checkpoint"
# Beginning of the name of a model whose weights are in a file.
IN_FILE = "file "
# Value of `lm` -> model of that package.
PACKAGED = {"package": "SmolLM2-135M"}
# Source -> its argument that names the data set.
NAMED = {"hugging_face": "name"}


def pretrained(params: Params, variant: str) -> tuple[str, ...]:
    """Return the pretrained models of a row: of its encoder, then of its decoder.

    Models with random weights do not count. Word vectors are left out: they hold single words.
    """
    row = params.variants[variant]
    features = params.features[row.features]
    named = [
        *_models("encoders", features.encoder, features.args),
        *_models("decoders", row.decoder, row.args),
    ]
    return tuple(dict.fromkeys(named))


def data_set(dataset: Dataset) -> str:
    """Return the source, such as `coco2014`. For a source of many data sets, add the name:
    `hugging_face owner/name`."""
    told = dataset.args.get(NAMED.get(dataset.source, ""), "")
    return f"{dataset.source} {told}".rstrip()


def _models(kind: str, name: str, given: dict[str, Any]) -> Iterator[str]:
    signature = registry.signature(kind, name)
    if signature is None:  # an __init__ that is inherited: its defaults may name any model
        yield f"{kind.removesuffix('s')} {name}"
        return
    defaults = {p.name: p.default for p in signature.parameters.values()}
    args = {key: value for key, value in defaults.items() if value is not Parameter.empty} | given
    for key, where in WEIGHTS.items():
        model, weights = args.get(key), args.get(where, "pretrained")
        replaced = key == "lm" and args.get(INSTEAD)
        if model and weights != "random" and not replaced:
            yield PACKAGED.get(model, model) if weights in OWN else f"{IN_FILE}{weights}"
    if args.get(INSTEAD):
        yield f"{IN_FILE}{args[INSTEAD]}"
