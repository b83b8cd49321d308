"""The parameters and tags that MLflow stores for a variant."""

import getpass
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.experiment.params import Params
from pipeline.results.decoding import decoding_text


def flat_params(variant: str, params: Params) -> dict[str, str]:
    """Return the variant's parameters after all overrides, by dotted name: args.hidden, train.lr,
    corpus.lower, encoder.model."""
    v = params.variants[variant]
    corpus, features = params.corpora[v.corpus], params.features[v.features]
    dataset = params.datasets[corpus.dataset]
    tree = {
        "decoder": {"name": v.decoder},
        "args": v.args,
        "train": params.training(variant).model_dump(),
        "decode": params.decoding(variant).model_dump(),
        "scoring": {"clip": params.scoring.clip or {}},
        "corpus": {"name": v.corpus, **corpus.model_dump()},
        "features": {"name": v.features, "dtype": features.dtype},
        "encoder": {"name": features.encoder, **features.args},
        "source": {"name": dataset.source, **dataset.args},
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in _leaves(tree)
    }


def tags(variant: str, params: Params) -> dict[str, str]:
    """Return the tags by which runs are found and grouped."""
    v = params.variants[variant]
    return {
        "variant": variant,
        "dataset": params.corpora[v.corpus].dataset,
        "corpus": v.corpus,
        "features": v.features,
        "encoder": params.features[v.features].encoder,
        "decoder": v.decoder,
        "protocol": protocol(variant, params),
        "workspace": f"{socket.gethostname()}:{Path.cwd()}".replace(
            "'", "_"
        ),  # searches put the value in single quotes
        **_experiment(),
        "mlflow.user": _user(),
        "mlflow.source.name": "dvc repro",
        "mlflow.source.type": "LOCAL",
    }


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def protocol(variant: str, params: Params) -> str:
    """Return the conditions of the scores in words. Scores under different protocols are not
    comparable."""
    corpus, decode = params.corpora[params.variants[variant].corpus], params.decoding(variant)
    words = [
        f"{corpus.dataset}, split {corpus.split}",
        "PTB tokens on both sides",
        decoding_text(decode),
    ]
    return "; ".join(words)


def _experiment() -> dict[str, str]:
    """Return a tag with the name that `dvc exp show` lists, if DVC runs an experiment."""
    name = os.environ.get("DVC_EXP_NAME")
    return {"experiment": name} if name else {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id that has no name
        return "unknown"
