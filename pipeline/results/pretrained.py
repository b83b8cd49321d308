"""Which pretrained models a row is made of, and which data set it is scored on, by their names in
params.yaml."""

from collections.abc import Iterator
from typing import Any

from pipeline.core import registry
from pipeline.experiment.params import Dataset, Params

WEIGHTS = {
    "model": "weights",
    "encoder": "weights",
    "decoder": "weights",
    "clip": "clip_weights",
    "lm": "lm_weights",
}
"argument that names a model -> the argument that says where its weights come from"
OWN = ("hub", "package", "pretrained")
"weights of the model itself; any other value but `random` is a file"
INSTEAD = "checkpoint"
"an argument that names a file of weights, in place of those of `lm`"
PACKAGED = {"package": "SmolLM2-135M"}
"a name of `lm` -> the model of that package"
NAMED = {"hugging_face": "name"}
"source -> its argument that says which data set it reads"


def pretrained(params: Params, variant: str) -> tuple[str, ...]:
    """Of encoder and decoder, in that order; a model with random weights is none. Word vectors are
    left out: they hold single words."""
    row = params.variants[variant]
    features = params.features[row.features]
    named = [
        *_models(_with_defaults("encoders", features.encoder, features.args)),
        *_models(_with_defaults("decoders", row.decoder, row.args)),
    ]
    return tuple(dict.fromkeys(named))


def data_set(dataset: Dataset) -> str:
    """`coco2014`; of a source that reads many data sets `hugging_face owner/name`."""
    told = dataset.args.get(NAMED.get(dataset.source, ""), "")
    return f"{dataset.source} {told}".rstrip()


def _with_defaults(kind: str, name: str, args: dict[str, Any]) -> dict[str, Any]:
    signature = registry.signature(kind, name)
    known = signature.parameters.values() if signature else ()
    return {p.name: p.default for p in known if p.default is not p.empty} | args


def _models(args: dict[str, Any]) -> Iterator[str]:
    for key, where in WEIGHTS.items():
        model, weights = args.get(key), args.get(where, "pretrained")
        replaced = key == "lm" and args.get(INSTEAD)
        if model and weights != "random" and not replaced:
            yield PACKAGED.get(model, model) if weights in OWN else weights
    if args.get(INSTEAD):
        yield args[INSTEAD]
