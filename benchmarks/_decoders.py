"""The decoders that the benchmarks measure, at the sizes of the papers, with random weights."""

from typing import Any

import torch

from benchmarks._common import WIDTH, WORDS
from pipeline.decoders.shared.contract import Decoder, Sizes
from pipeline.decoders.shared.model_folder import build_decoder
from pipeline.decoders.shared.tokenizers import Special

ATTENTION = {"embedding": 512, "hidden": 512, "attention": 512, "dropout": 0.5}
# Decoders that are trained from scratch. The language model of prefix_lm is small: see
# LANGUAGE_MODEL.
ARGS: dict[str, dict[str, Any]] = {
    "merge": {"embedding": 256, "hidden": 256, "dropout": 0.3},
    "lstm": {"embedding": 256, "hidden": 256, "layers": 2, "dropout": 0.3},
    "soft_attention": ATTENTION,
    "hard_attention": ATTENTION,
    "transformer": {"width": 512, "heads": 8, "layers": 4, "feedforward": 2048, "dropout": 0.1},
    "prefix_lm": {"prefix": 10, "lm": "gpt2", "lm_weights": "random"},
}
LANGUAGE_MODEL = {
    "model_type": "gpt2",
    "n_embd": 384,
    "n_layer": 6,
    "n_head": 6,
    "n_positions": 64,
    "bos_token_id": None,
    "pad_token_id": None,
}


def sizes(name: str, special: Special, grid: int = WIDTH, words: int = WORDS, **lm: Any) -> Sizes:
    """Return the sizes of a decoder. `lm` overrides the configuration of the language model."""
    known = {**LANGUAGE_MODEL, "vocab_size": words, "eos_token_id": special.end, **lm}
    return Sizes(
        grid, grid, words, {"lm": known, "start": special.start} if name == "prefix_lm" else {}
    )


def build(name: str, special: Special) -> Decoder:
    """Build a decoder. Its weights are equal in every call."""
    torch.manual_seed(0)
    return build_decoder(name, sizes(name, special), ARGS[name])
