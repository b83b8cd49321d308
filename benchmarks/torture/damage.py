"""Random damage to bytes, JSON values and tables."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Values that none of the project's files contain.
HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 0.5, 10**30, -(10**30), 2**31, 2**63, 1e308, -1e308),
    *(math.nan, math.inf, -math.inf, "", " ", "x" * 100_000, "../../etc/passwd", "/dev/zero"),
    *("a\x00b", "\x1b[2J\x1b[31m", "\u202egnp", "e\u0301", "two\nlines", "'; --", "${key}"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1, "a"]),
]


def bytes_of(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Damage bytes. Return what was done, and the damaged bytes."""
    kind = rng.choice(
        ["flip", "flips", "cut", "zero", "repeat", "insert", "empty", "noise", "swap"]
    )
    at, length = rng.randrange(len(data) + 1), rng.randrange(1, 200)
    if kind == "flip":
        return f"byte {at} flipped", data[:at] + bytes(b ^ 0xFF for b in data[at : at + 1]) + data[
            at + 1 :
        ]
    if kind == "flips":
        out = bytearray(data)
        for _ in range(min(20, len(out))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        return "20 bits flipped", bytes(out)
    changed = {
        "cut": data[:at],
        "zero": data[:at] + bytes(length) + data[at + length :],
        "repeat": data[:at] + data[max(0, at - length) :],
        "insert": data[:at] + rng.randbytes(length) + data[at:],
        "empty": b"",
        "noise": rng.randbytes(max(1, len(data) // 2)),
        "swap": data[at:] + data[:at],
    }
    return f"{kind} at byte {at}", changed[kind]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all parts of a JSON value, starting with the whole."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, part in items for place in places(part, (*path, key)))]


def value_of(rng: random.Random, value: Any, hostile: list[Any] = HOSTILE) -> tuple[str, Any]:
    """Replace, remove or rename one part of a JSON value. Return what was done, and the value."""
    path = rng.choice(places(value)[1:] or [()])
    if not path:
        return "whole value", rng.choice(hostile)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    where, kind = (
        ".".join(map(str, path))[:100],
        rng.choice(["put", "put", "put", "remove", "rename"]),
    )
    if kind == "put" or isinstance(owner, list):
        owner[path[-1]] = new = rng.choice(hostile)
        return f"{where} = {repr(new)[:40]}", value
    was = owner.pop(path[-1])
    if kind == "rename":
        owner[f"{path[-1]}_"] = was
    return f"{kind} {where}", value


def json_of(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Change one value of a JSON file, or write it in a wrong form."""
    kind = rng.choice(["value"] * 6 + ["twice", "utf-16", "deep", "long", "surrogate", "bytes"])
    text = data.decode("utf-8")
    if kind == "value":
        what, value = value_of(rng, json.loads(text))
        return what, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"
    if kind == "twice" and text.startswith("{") and '": ' in text:
        key = text.split('"')[1]
        return f"key {key} twice", b'{"' + key.encode() + b'": 0, ' + text[1:].encode()
    if kind == "utf-16":
        return "UTF-16", text.encode("utf-16")
    if kind == "deep":
        return "nested 100,000 deep", b"[" * 100_000 + b"]" * 100_000
    if kind == "long":
        return "a number of 5,000 digits", text.replace("1", str("9" * 5000), 1).encode()
    if kind == "surrogate":
        return "half a character", text.replace('"', '"\\ud800', 1).encode()
    return bytes_of(rng, data)


def parquet_of(rng: random.Random, data: bytes, path: Path) -> tuple[str, bytes]:
    """Damage a Parquet file: drop a column, or change a type, rows or bytes."""
    import pandas as pd

    table = pd.read_parquet(path)
    kinds: dict[str, Callable[[str], pd.DataFrame]] = {
        "drop": lambda c: table.drop(columns=c),
        "null": lambda c: table.assign(**{c: None}),
        "one null": lambda c: table.assign(
            **{c: table[c].astype(object).where(table.index != 0, None)}
        ),
        "number": lambda c: table.assign(**{c: range(len(table))}),
        "float": lambda c: table.assign(**{c: math.nan}),
        "huge": lambda c: table.assign(**{c: 1e308}),
        "bool": lambda c: table.assign(**{c: True}),
        "bytes": lambda c: table.assign(**{c: [b"\xff\xfe"] * len(table)}),
        "list": lambda c: table.assign(**{c: pd.Series([["a", "b"]] * len(table))}),
        "text": lambda c: table.assign(
            **{c: rng.choice(["", "x", "../../etc/passwd", "a\x00b", "\x1b[2J"])}
        ),
        "time": lambda c: table.assign(**{c: pd.Timestamp("2020-01-01")}),
        "order": lambda c: table.sample(frac=1, random_state=rng.randrange(2**31)),
        "rows twice": lambda c: pd.concat([table, table]),
        "half": lambda c: table.iloc[: len(table) // 2],
        "no rows": lambda c: table.iloc[:0],
        "long": lambda c: table.assign(**{c: "word " * 20_000}),
        "rename": lambda c: table.rename(columns={c: f"{c}_"}),
        "category": lambda c: table.assign(**{c: table[c].astype(str).astype("category")}),
    }
    kind = rng.choice([*kinds, "file", "file", "file"])
    column = rng.choice(list(table.columns) or ["x"])
    if kind == "file":
        return bytes_of(rng, data)
    try:
        changed = kinds[kind](column).reset_index(drop=True).to_parquet()
    except (ValueError, TypeError, OverflowError, KeyError):
        return bytes_of(rng, data)
    return f"column {column}: {kind}", changed or b""


def npy_of(rng: random.Random, data: bytes, path: Path) -> tuple[str, bytes]:
    """Damage an array: change its type, shape or bytes, or insert values that are not finite."""
    import io

    import numpy as np

    array = np.load(path)
    kinds: dict[str, Callable[[], Any]] = {
        "float64": lambda: array.astype(np.float64),
        "objects": lambda: np.array([{"a": 1}], dtype=object),
        "flat": lambda: array.reshape(-1),
        "no rows": lambda: array[:0],
        "half": lambda: array[: len(array) // 2],
        "Fortran's order": lambda: np.asfortranarray(array),
        "text": lambda: np.array(["a"] * len(array)),
        "not finite": lambda: np.full(array.shape, np.nan, np.float16),
    }
    kind = rng.choice([*kinds, "file", "file", "shape"])
    if kind == "file":
        return bytes_of(rng, data)
    if kind == "shape":
        return "a header of other size", data.replace(b"(36", b"(10000000000, 36", 1)
    out = io.BytesIO()
    np.save(out, kinds[kind]())
    return kind, out.getvalue()


def text_of(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Damage a CSV or YAML file: change a cell, the encoding or bytes, or write columns twice."""
    kind = rng.choice(
        ["cell"] * 4 + ["twice", "utf-16", "latin-1", "lines", "quote", "bytes", "bytes"]
    )
    lines = data.decode("utf-8", "replace").split("\n")
    if kind == "cell" and len(lines) > 1:
        row = rng.randrange(len(lines))
        cells = lines[row].split(",")
        new = rng.choice(
            ["", "nan", "inf", "-1", "1e999", "x" * 10_000, "9" * 5000, "\x00", '"', "é"]
        )
        cells[rng.randrange(len(cells))] = new
        lines[row] = ",".join(cells)
        return f"line {row}: {new[:20]!r}", "\n".join(lines).encode()
    if kind == "twice":
        return "each column twice", "\n".join(
            f"{line},{line}" if line else "" for line in lines
        ).encode()
    if kind == "utf-16":
        return "UTF-16", "\n".join(lines).encode("utf-16")
    if kind == "latin-1":
        return "latin-1", "\n".join(lines).replace("a", "é").encode("latin-1")
    if kind == "lines":
        return "lines ended by CR, NUL between", "\r\0".join(lines).encode()
    if kind == "quote":
        return "a quote that does not end", b'"' + data
    return bytes_of(rng, data)


def file_of(rng: random.Random, path: Path) -> str:
    """Replace a file by a damaged one, remove it, or put a folder in its place. Return what was
    done."""
    kind = rng.choice(["content"] * 12 + ["gone", "folder"])
    data = path.read_bytes()
    path.unlink()
    if kind == "gone":
        return "gone"
    if kind == "folder":
        path.mkdir()
        return "a folder"
    what, changed = content_of(rng, data, path)
    path.write_bytes(changed)
    return what


def content_of(rng: random.Random, data: bytes, path: Path) -> tuple[str, bytes]:
    """Damage the content of a file according to its suffix."""
    of_path = {".parquet": parquet_of, ".npy": npy_of}
    suffix = path.suffix
    if suffix in of_path:
        whole = path.with_name(f"{path.name}.whole")
        whole.write_bytes(data)
        try:
            return of_path[suffix](rng, data, whole)
        finally:
            whole.unlink()
    if suffix == ".json":
        return json_of(rng, data)
    if suffix in (".csv", ".yaml", ".txt"):
        return text_of(rng, data)
    return bytes_of(rng, data)
