"""Translate a row's `decode` to arguments of transformers' `generate`."""

from typing import Any


def generation(decode: dict[str, Any]) -> dict[str, Any]:
    """Return the options for generation_config.json: sampling if there are samples, else search."""
    drawn = {"do_sample": True, "temperature": decode["temperature"], "top_k": decode["top_k"]}
    search = {"num_beams": decode["beam"], "length_penalty": decode["length_penalty"]}
    own = drawn if decode["samples"] else {**search, "early_stopping": decode["beam"] > 1}
    return {"max_new_tokens": decode["max_tokens"], "do_sample": False, **own}
