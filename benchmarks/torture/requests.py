"""Hostile requests, passed to the server within this process."""

import asyncio
import base64
import json
import math
import random
import time
from pathlib import Path
from typing import Any

from benchmarks.torture.damage import bytes_of, json_of, value_of
from benchmarks.torture.pictures import IMPOSTORS, bomb, encoded

DECODE = {"beam": 2, "max_tokens": 6, "length_penalty": 0.0, "alternatives": 1}
DECODE |= {"samples": 0, "temperature": 1.0, "top_k": 0, "seed": 1}
# Requests per case. Loading the served model takes four seconds.
REQUESTS = 8
# Largest time of an answer.
SECONDS = 5.0
# Largest size of a body in bytes.
LIMIT = 4_000_000
PATHS = ["/invocations"] * 60 + [
    "/",
    "/ping",
    "/../etc/passwd",
    "/docs",
    "/invocations/",
    "//",
    "/%00",
]
KINDS = [b"application/json"] * 40 + [
    b"text/csv",
    b"",
    b"application/json; charset=\xff",
    b"application/x-parquet",
]
FORMS = ["dataframe_records", "dataframe_split", "inputs", "instances"]


def images(rng: random.Random) -> list[Any]:
    """Return the values that take the place of pictures in a request."""
    content = rng.choice(
        [encoded(rng)[1], bytes_of(rng, encoded(rng)[1])[1], rng.choice(IMPOSTORS), bomb(rng)]
    )
    text = base64.b64encode(content).decode()
    odd: list[Any] = [
        text[:-3],
        f"data:image/png;base64,{text}",
        "/etc/passwd",
        "%%%",
        "",
        None,
        1e308,
        [[1, 2], [3]],
        {},
        "\ud800",
    ]
    return [text, *rng.sample(odd, rng.randrange(3))]


def body(rng: random.Random) -> tuple[str, bytes]:
    """Return what was done, and the body: JSON, or bytes that are not JSON."""
    form, given = rng.choice(FORMS), images(rng)
    tables: dict[str, Any] = {
        "dataframe_records": [{"image": image} for image in given],
        "dataframe_split": {"columns": ["image"], "data": [[image] for image in given]},
        "inputs": {"image": given},
        "instances": [{"image": image} for image in given],
    }
    said: Any = {form: tables[form]}
    kind = rng.choice(
        ["as it is"] * 3 + ["value"] * 4 + ["json", "bytes", "huge", "nan", "many", "wide"]
    )
    if kind == "value":
        what, said = value_of(rng, said)
        return f"{form}, {what}", json.dumps(said).encode()
    if kind == "many":
        said = {form: [{"image": ""}] * rng.choice([65, 5000, 400_000])}
    if kind == "wide":
        said = {form: [{f"c{n}": 1 for n in range(rng.choice([17, 50_000]))}]}
    if kind == "nan":
        said = {form: rng.choice([math.nan, [math.inf], {"image": math.nan}])}
    data = json.dumps(said).encode()
    if kind == "huge":
        data = b'{"%s": %s}' % (form.encode(), b"9" * 5000)
    if kind in ("json", "bytes"):
        what, data = json_of(rng, data) if kind == "json" else bytes_of(rng, data)
        return f"{form}, {what}", data
    return f"{form}, {kind}", data


def ask(model: Path, rng: random.Random) -> None:
    """Pass REQUESTS requests to the server in this process.

    Raises:
        AssertionError: An answer has status 500 or above, takes SECONDS or more, is not JSON, or
            shows code.
    """
    from mlflow.pyfunc import load_model, scoring_server

    from captionlab.door import Door

    door = Door(scoring_server.init(load_model(str(model))), LIMIT)
    for _ in range(REQUESTS):
        what, data = body(rng)
        head: dict[str, Any] = {
            "type": "http",
            "method": rng.choice(["POST"] * 20 + ["GET", "PUT", "HEAD", "OPTIONS"]),
            "path": rng.choice(PATHS),
            "headers": [(b"content-type", rng.choice(KINDS))],
            "query_string": rng.choice([b"", b"a=%ff", b"x" * 5000]),
            "http_version": "1.1",
        }
        head["headers"] += rng.choice(
            [[], [(b"content-length", b"-1")], [(b"accept", b"\xff" * 2000)]]
        )
        cut, began = rng.randrange(len(data) + 1), time.monotonic()
        status, answer = asyncio.run(_answer(door, head, [data[:cut], data[cut:]]))
        took = time.monotonic() - began
        print(
            f"{head['method']} {head['path']} {what[:80]!a}: {status} in {took:.2f} s,",
            repr(answer[:200]),
            flush=True,
        )
        assert 200 <= status < 500, f"status {status}: {what[:200]!a}"
        assert took < SECONDS, f"{took:.1f} s: {what[:200]!a}"
        assert b"Traceback" not in answer, what[:200]
        assert b".py" not in answer, what[:200]
        if head["path"] == "/invocations" and answer:
            json.loads(answer)


async def _answer(door: Any, head: dict[str, Any], parts: list[bytes]) -> tuple[int, bytes]:
    messages = [
        {"type": "http.request", "body": part, "more_body": n + 1 < len(parts)}
        for n, part in enumerate(parts)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await door(head, receive, send)
    status = next(m["status"] for m in sent if m["type"] == "http.response.start")
    return status, b"".join(m.get("body", b"") for m in sent)
