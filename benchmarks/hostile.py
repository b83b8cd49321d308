"""One ordinary client beside hostile ones: `python -m benchmarks.hostile [seconds [clients]]` ->
benchmarks/results/hostile.{json,md}.

The server and its model are those of benchmarks/serving.py. Hostile clients send the worst bodies
that pass the limits, and some that do not. They run in a process of their own on the same cores. A
hostile client that has no answer after 5 s disconnects and sends its next body.

The ordinary client sends a photograph, waits for its caption and sends the next one. If the server
tells it to come again later, it does so, and all of that time counts. Another client asks /health
four times a second.
"""

import base64
import http.client
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from os import getloadavg
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import _common as common
from benchmarks import serving
from pipeline.captioner.served import PIXELS
from pipeline.sources import scenes

SECONDS = 60
HOSTILE = 8
# Side, in pixels, of the largest square picture that is decoded at its full size.
SIDE = int(PIXELS**0.5)
# Seconds that a hostile client waits for an answer before it sends the next body.
PATIENCE = 5.0
JSON = "application/json"
# The default limit for a body, in bytes.
LIMIT = 32_000_000

# A request body and its content type.
Body = tuple[bytes, str]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    content = BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def records(*pictures: bytes) -> Body:
    rows = [{"image": base64.b64encode(picture).decode()} for picture in pictures]
    return json.dumps({"dataframe_records": rows}).encode(), JSON


def scene(number: int, side: int) -> Image.Image:
    rng = random.Random(number)
    return scenes.draw(rng, scenes.compose(rng, "test"), side)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def fitting(picture: bytes) -> list[bytes]:
    """Return as many copies of a picture as a body may hold, at most 64."""
    return [picture] * min(64, int(LIMIT * 0.98 / (len(picture) * 4 / 3 + 20)))


def worst() -> dict[str, Body]:
    """Return the worst bodies, by a description of each."""
    black = encoded(Image.new("LA", (SIDE, SIDE)), "PNG")
    lossless = encoded(Image.new("RGB", (SIDE, SIDE)), "WEBP", lossless=True)
    photo = encoded(noise(4000, 3000), "JPEG", quality=60)
    scans = encoded(noise(4000, 3000), "JPEG", quality=30, progressive=True)
    values = np.zeros((223, 223, 3), int).tolist()
    return {
        "64 black PNGs of 12 million pixels": records(*[black] * 64),
        "64 small pictures": records(*(encoded(scene(n, 128), "PNG") for n in range(64))),
        "64 black WebPs of 12 million pixels": records(*[lossless] * 64),
        "photographs of 12 million pixels": records(*fitting(photo)),
        "progressive JPEGs": records(*fitting(scans)),
        "a picture as 150,000 numbers": (
            json.dumps({"dataframe_records": [{"image": values}]}).encode(),
            JSON,
        ),
        "a CSV": (b"image\n" + b"A" * (LIMIT - 10), "text/csv"),
        "one text": (json.dumps({"inputs": {"image": ["A" * (LIMIT - 99)]}}).encode(), JSON),
    }


LEAVES, SLOW = "64 black PNGs, leaves after 1 s", "sends slowly"


def attack(port: int, clients: int, seconds: float) -> Counter[str]:
    """Run the hostile clients. Return how often each kind of body got each answer."""
    bodies, until, seen = worst(), time.time() + seconds, Counter[str]()
    with ThreadPoolExecutor(clients) as pool:
        for done in [
            pool.submit(_attack, port, number, bodies, until, seen) for number in range(clients)
        ]:
            done.result()
    return seen


def _attack(port: int, number: int, bodies: dict[str, Body], until: float, seen: Any) -> None:
    """Run one client, which cycles through all kinds of bodies. `number` sets the first kind."""
    kinds = [*bodies, LEAVES, SLOW]
    while time.time() < until:
        kind = kinds[number % len(kinds)]
        number += 1
        patience = max(0.1, min(until - time.time(), 1.0 if kind == LEAVES else PATIENCE))
        body = bodies.get(kind) or bodies[next(iter(bodies))]
        try:
            said = (_slow if kind == SLOW else _post)(port, body, patience)
        except (OSError, http.client.HTTPException) as error:
            said = type(error).__name__
        seen[f"{kind}: {said}"] += 1


def _post(port: int, body: Body, patience: float) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request("POST", "/invocations", body[0], {"Content-Type": body[1]})
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    finally:
        connection.close()


def _slow(port: int, body: Body, patience: float) -> str:
    """Send a part of the body, and then a hundred bytes ten times a second for five seconds."""
    head = f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: {JSON}\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"{head}{LIMIT}\r\n\r\n".encode() + bytes(5_000_000))
        ends = time.time() + min(5.0, patience)
        while time.time() < ends:
            connection.sendall(bytes(100))
            time.sleep(0.1)
    return "left"


class Ordinary:
    """One client that sends photographs (`ask`), and one that asks for /health (`look`)."""

    def __init__(self, port: int):
        self.port = port
        self.seconds, self.health = list[float](), list[float]()
        self.errors, self.told_to_wait = list[str](), 0

    def ask(self, until: float) -> None:
        bodies = [records(encoded(scene(n, 480), "JPEG"))[0] for n in range(16)]
        for number, started in enumerate(_ticks(until)):
            try:
                said = self._answer(bodies[number % len(bodies)])
                if said["predictions"][0]["error"]:
                    self.errors.append(str(said))
            except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
            self.seconds.append(time.monotonic() - started)

    def _answer(self, body: bytes) -> Any:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request("POST", "/invocations", body, {"Content-Type": JSON})
            answer = connection.getresponse()
            said = json.loads(answer.read())
            connection.close()
            if answer.status != 429:
                return said
            self.told_to_wait += 1
            time.sleep(float(answer.headers["Retry-After"]))

    def look(self, until: float) -> None:
        for started in _ticks(until):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request("GET", "/health")
                connection.getresponse().read()
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(f"health: {error!r}")
            self.health.append(time.monotonic() - started)
            time.sleep(0.25)


def _ticks(until: float) -> Iterator[float]:
    while (now := time.monotonic()) < until:
        yield now


def measure(port: int, server: psutil.Process, clients: int, seconds: float) -> dict[str, Any]:
    one, memory = Ordinary(port), list[float]()
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        apart.submit(worst).result()  # Start the process, and draw the pictures there once.
        attacked = apart.submit(attack, port, clients, seconds + 5)
        time.sleep(5)
        until = time.monotonic() + seconds
        works: list[Callable[[float], None]] = [one.ask, one.look]
        threads = [threading.Thread(target=work, args=(until,)) for work in works]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            memory.append(serving.memory(server))
            time.sleep(0.5)
        load = round(getloadavg()[0], 1)
        for thread in threads:
            thread.join()
        seen = attacked.result()
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": len(one.seconds),
        "errors": len(one.errors),
        "first_error": one.errors[0] if one.errors else None,
        "told_to_come_again": one.told_to_wait,
        "latency_seconds": _spread(one.seconds),
        "health_seconds": _spread(one.health),
        "memory_mb": {"largest": round(max(memory)), "at_the_end": round(memory[-1])},
        "load_average_at_the_end": load,
        "hostile": dict(sorted(seen.items())),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    found = {"median": 50, "p95": 95, "p99": 99, "longest": 100}
    return {name: round(float(np.percentile(seconds, share)), 3) for name, share in found.items()}


def main() -> None:
    seconds, clients, *_ = [*map(int, sys.argv[1:]), *(SECONDS, HOSTILE)[len(sys.argv) - 1 :]]
    before = round(getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        process, port = serving.start(Path(folder))
        try:
            found = measure(port, psutil.Process(process.pid), clients, seconds)
        finally:
            process.terminate()
            process.wait(20)
    about = {**common.environment(), "load_average_before": before, **found}
    common.save("hostile", about, table(about))


def table(about: dict[str, Any]) -> str:
    head = (
        f"{common.introduction(about)} `captionlab serve`, one ordinary client beside "
        f"{about['clients']} hostile ones for {about['seconds']} s, on the same cores. Load "
        f"average {about['load_average_before']} before, {about['load_average_at_the_end']} at "
        "the end.\n\n"
    )
    rows = {
        "requests of the ordinary client": about["requests"],
        "errors": about["errors"],
        "times told to come again": about["told_to_come_again"],
    }
    rows |= {f"seconds, {name}": value for name, value in about["latency_seconds"].items()}
    rows |= {f"seconds of /health, {name}": v for name, v in about["health_seconds"].items()}
    rows |= {f"memory, {n.replace('_', ' ')} (MB)": v for n, v in about["memory_mb"].items()}
    sent = [[name, str(count)] for name, count in about["hostile"].items()]
    return (
        head
        + common.markdown(["", ""], [[name, str(value)] for name, value in rows.items()])
        + "\n"
        + common.markdown(["what hostile clients sent: what they were told", "times"], sent)
    )


if __name__ == "__main__":
    main()
