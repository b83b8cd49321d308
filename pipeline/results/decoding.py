"""Decoding settings in words, for tables, tags and messages."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.experiment.params import Decoding


def decoding_text(decode: "Decoding") -> str:
    """Describe decoding, such as `beam 3, length penalty 0.7, at most 30 tokens` or `greedy, at
    most 30 tokens`.

    Only settings that have an effect are named. Greedy search, for example, has no length penalty.
    """
    return f"{_search(decode)}, at most {decode.max_tokens} tokens"


def _search(decode: "Decoding") -> str:
    if decode.samples:
        count = "one sample" if decode.samples == 1 else f"best of {decode.samples} samples"
        among = f"the {decode.top_k} likeliest words" if decode.top_k else "all words"
        return f"{count}, temperature {decode.temperature:g} among {among}, seed {decode.seed}"
    if decode.beam == 1:
        return "greedy"
    return f"beam {decode.beam}, length penalty {decode.length_penalty:g}"
