"""Limit the work that the JSON of a request makes, before MLflow turns it into a table."""

import json
from typing import Any

from pipeline.core.registry import nearest

# Decoding settings that a request may replace; pipeline/tracking/pyfunc.py reads them.
PARAMS = ("beam", "samples", "max_tokens")
# Maximum pictures of one request.
PICTURES = 64
# Maximum columns of a request's table. MLflow takes 0.2 ms for each.
COLUMNS = 16
# Maximum values and opening brackets of the JSON. As lists of numbers, a picture of 224 x 224 has
# 150,528 values and as many brackets as pixels.
VALUES = 300_000
# Maximum backslashes. 32 MB of base64 have half a million line breaks.
ESCAPES = 1_000_000
# Maximum digits of a whole number. NumPy has none above 19, and Python takes seconds for thousands.
DIGITS = 18


class Refused(Exception):
    """The reason to answer with a status of 400 or above in place of the model's answer."""

    def __init__(self, status: int, message: str, closes: bool = False):
        super().__init__(message)
        self.status, self.message = status, message
        self.closes = closes
        "Whether the connection closes, because the start of its next request is unknown."


def check_body(body: bytes) -> None:
    """Raise Refused for JSON that makes too much work. MLflow reports most other faults."""
    if body.count(b",") + body.count(b"[") > VALUES:
        raise Refused(413, f"more than {VALUES:,} values: send pictures as base64 text")
    if body.count(b"\\") > ESCAPES:
        raise Refused(413, f"more than {ESCAPES:,} escaped characters: send plain base64")
    try:
        said = json.loads(body, parse_int=_whole)
    except RecursionError:
        raise Refused(400, "the JSON is nested too deeply") from None
    except ValueError:
        return
    _check_names(said)
    _check_params(said)
    rows, columns = _shape(said)
    if columns > COLUMNS:
        raise Refused(400, f"{columns:,} columns: `image` is the only one")
    if rows > PICTURES:
        raise Refused(413, f"{rows:,} images, more than {PICTURES}: send them in several requests")


def _check_names(said: Any) -> None:
    """Raise Refused for names of columns that are not strings: MLflow fails on them."""
    parts = [said, *said.values()] if isinstance(said, dict) else []
    for part in parts:
        named = part.get("columns", []) if isinstance(part, dict) else []
        if isinstance(named, list) and not all(isinstance(name, str) for name in named):
            raise Refused(400, "a column name that is not text: `image` is the only one")


def _check_params(said: Any) -> None:
    """Raise Refused for a decoding setting that does not exist, which MLflow would leave out."""
    params = said.get("params") if isinstance(said, dict) else None
    for name in params if isinstance(params, dict) else ():
        if name not in PARAMS:
            near = nearest(name, PARAMS)
            raise Refused(400, f"unknown param '{name}'{near}: there are {', '.join(PARAMS)}")


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS:
        raise Refused(400, f"a whole number of more than {DIGITS} digits")
    return int(digits)


def _shape(said: Any) -> tuple[int, int]:
    """Return the most rows and the most columns of any table, in any form that MLflow accepts."""
    parts = [said] if not isinstance(said, dict) else [said, *said.values()]
    sizes = [_size(part) for part in parts]
    return max(rows for rows, _ in sizes), max(columns for _, columns in sizes)


def _size(part: Any) -> tuple[int, int]:
    if isinstance(part, dict):  # columns by name, or dataframe_split's index, columns and data
        rows = max((len(value) for value in part.values() if isinstance(value, list)), default=0)
        named = part.get("columns")
        return rows, max(len(part), len(named) if isinstance(named, list) else 0)
    if isinstance(part, list):  # a list of records, or of values
        records = [len(row) for row in part if isinstance(row, dict)]
        return len(part), max(records, default=0)
    return 0, 0
