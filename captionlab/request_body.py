"""How much work the JSON of a request makes, told before MLflow makes a table of it."""

import json
from typing import Any

PICTURES = 64
"of one request"
COLUMNS = 16
"of a request's table; MLflow takes a fifth of a millisecond for each"
VALUES = 300_000
"of the JSON: a picture of 224 x 224 as lists of numbers has 150,528 and as many brackets as pixels"
ESCAPES = 1_000_000
"backslashes: 32 MB of base64 have half a million line breaks"
DIGITS = 18
"of a whole number; NumPy has none above 19, and Python takes seconds for thousands of them"


class Refused(Exception):
    """An answer of status 400 and above in place of the model's."""

    def __init__(self, status: int, message: str, closes: bool = False):
        super().__init__(message)
        self.status, self.message = status, message
        self.closes = closes
        "whether the connection ends, since nobody knows where its next request begins"


def check_body(body: bytes) -> None:
    """Raises Refused for JSON that makes too much work. What is wrong in other ways is left to
    MLflow, which says so."""
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
    rows, columns = _shape(said)
    if columns > COLUMNS:
        raise Refused(400, f"{columns:,} columns: `image` is the only one")
    if rows > PICTURES:
        raise Refused(413, f"{rows:,} images, more than {PICTURES}: send them in several requests")


def _check_names(said: Any) -> None:
    """Raises Refused for names of columns that are no texts: MLflow fails over them."""
    parts = [said, *said.values()] if isinstance(said, dict) else []
    for part in parts:
        named = part.get("columns", []) if isinstance(part, dict) else []
        if isinstance(named, list) and not all(isinstance(name, str) for name in named):
            raise Refused(400, "a column name that is not text: `image` is the only one")


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS:
        raise Refused(400, f"a whole number of more than {DIGITS} digits")
    return int(digits)


def _shape(said: Any) -> tuple[int, int]:
    """Rows and columns of the largest table in any of the forms that MLflow takes."""
    parts = [said] if not isinstance(said, dict) else [said, *said.values()]
    sizes = [_size(part) for part in parts]
    return max(rows for rows, _ in sizes), max(columns for _, columns in sizes)


def _size(part: Any) -> tuple[int, int]:
    if isinstance(part, dict):  # of columns, or dataframe_split's index, columns and data
        rows = max((len(value) for value in part.values() if isinstance(value, list)), default=0)
        named = part.get("columns")
        return rows, max(len(part), len(named) if isinstance(named, list) else 0)
    if isinstance(part, list):  # of records, or of values
        records = [len(row) for row in part if isinstance(row, dict)]
        return len(part), max(records, default=0)
    return 0, 0
