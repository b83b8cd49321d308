"""Serving under load: `python -m benchmarks.serving [seconds [clients]]` ->
benchmarks/results/serving.{json,md}.

`captionlab serve` runs soft attention with the settings of the quickstart: EfficientNet-Lite0 at
128 pixels, beam 3. The decoder has random weights, so captions reach the maximum of 30 tokens. Each
client sends one picture per request, and the next one after the answer. The server's memory is read
twice a second. The first fifth, while buffers fill, is reported separately.
"""

import base64
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil

from benchmarks import _common as common
from pipeline.sources import scenes

SECONDS = 60
CLIENTS = 50
PICTURES = 64
ENCODER: dict[str, Any] = {
    "model": "tf_efficientnet_lite0",
    "weights": "package",
    "image_size": 128,
    "resize": "squash",
}
ARGS = {"embedding": 128, "hidden": 256, "attention": 128, "dropout": 0.3, "stochastic": 1.0}
DECODE = {"beam": 3, "max_tokens": 30, "length_penalty": 0.7, "alternatives": 3}
DECODE |= {"samples": 0, "temperature": 1.0, "top_k": 0, "seed": 1}
VOCABULARY = [f"word{n}" for n in range(70)]


@dataclass
class Load:
    """Measurements of all clients together."""

    seconds: list[float] = field(default_factory=list)
    "Seconds of each answered request."
    errors: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    "Memory of the server's processes in MB, sampled twice a second."


def make_model(folder: Path) -> Path:
    """Write a model folder as MLflow stores it."""
    import torch

    from pipeline.decoders.shared.contract import Sizes
    from pipeline.decoders.shared.model_folder import build_decoder, save_model
    from pipeline.decoders.shared.tokenizers import word_tokenizer
    from pipeline.encoders.timm_model import Encoder

    torch.manual_seed(0)
    tokenizer, encoder = word_tokenizer([" ".join(VOCABULARY)], 1), Encoder(**ENCODER)
    sizes = Sizes(encoder.grid_dim, encoder.pooled_dim, len(tokenizer))
    about = {"decoder": "soft_attention", "args": ARGS, "sizes": asdict(sizes)}
    config = {**about, "encoder": {"name": "timm_model", "args": ENCODER}}
    save_model(folder / "soft", build_decoder("soft_attention", sizes, ARGS), tokenizer, config)
    return publish(folder / "soft", DECODE, folder)


def publish(captioner: Path, decode: dict[str, Any], folder: Path) -> Path:
    """Write the folder that `track` would store for this model folder, for a variant without scores
    and samples."""
    from mlflow.models import Model

    from pipeline.results.scores import ScoreTable
    from pipeline.tracking.fill import _save_model
    from pipeline.tracking.payload import Payload

    nothing: Any = {"params": {}, "tags": {}, "cost": {}, "scores": ScoreTable(())}
    nothing |= {name: [] for name in ("history", "samples", "files", "rows", "requested")}
    nothing |= dict.fromkeys(("images", "run_file", "lock", "corpus"), folder / "none")
    payload = Payload(
        variant=captioner.name, fingerprint="", model=captioner, decode=decode, **nothing
    )
    _save_model(payload, folder, Model())
    return folder / "model"


def bodies() -> list[bytes]:
    out = []
    for n in range(PICTURES):
        rng, content = random.Random(n), BytesIO()
        picture = scenes.draw(rng, scenes.compose(rng, "test"), 128)
        picture.save(content, "JPEG")
        image = base64.b64encode(content.getvalue()).decode()
        out.append(json.dumps({"dataframe_records": [{"image": image}]}).encode())
    return out


def client(port: int, number: int, requests: list[bytes], until: float, load: Load) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < until:
        number += 1
        started = time.monotonic()
        try:
            connection.request(
                "POST",
                "/invocations",
                requests[number % PICTURES],
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            said = json.loads(answer.read())
            if answer.status != 200 or said["predictions"][0]["error"]:
                load.errors.append(f"{answer.status} {said}")
            load.seconds.append(time.monotonic() - started)
        except (OSError, ValueError, http.client.HTTPException) as error:
            load.errors.append(repr(error))
            connection.close()


def measure(port: int, server: psutil.Process, clients: int, seconds: float) -> Load:
    load, requests = Load(), bodies()
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client, args=(port, 7 * n, requests, until, load))
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        load.memory.append(memory(server))
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    return load


def memory(server: psutil.Process) -> float:
    """Return the memory in MB of the server and the processes that it started."""
    found, size = [server, *server.children(recursive=True)], 0
    for process in found:
        with suppress(psutil.Error):  # The process has ended.
            size += process.memory_full_info().pss  # Shared pages count once.
    return size / 1e6


def start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "captionlab.__main__",
        "serve",
        str(make_model(folder)),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(common.ROOT)}
    )
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def main() -> None:
    seconds, clients, *_ = [*map(int, sys.argv[1:]), *(SECONDS, CLIENTS)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        process, port = start(Path(folder))
        try:
            load = measure(port, psutil.Process(process.pid), clients, seconds)
        finally:
            process.terminate()
            process.wait(20)
    about = {**common.environment(), **figures(load, seconds, clients)}
    common.save("serving", about, table(about))


def figures(load: Load, seconds: int, clients: int) -> dict[str, Any]:
    warm = load.memory[len(load.memory) // 5 :]
    half = len(warm) // 2
    waited = sorted(load.seconds)
    return {
        "clients": clients,
        "seconds": seconds,
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "requests": len(waited),
        "errors": len(load.errors),
        "first_error": load.errors[0] if load.errors else None,
        "requests_per_second": round(len(waited) / seconds, 1),
        "latency_seconds": {
            "median": round(statistics.median(waited), 3),
            "p95": round(waited[int(0.95 * len(waited))], 3),
            "longest": round(waited[-1], 3),
        },
        "memory_mb": {
            "at_start": round(load.memory[0]),
            "after_a_fifth": round(warm[0]),
            "mean_of_the_first_half_after": round(statistics.mean(warm[:half])),
            "mean_of_the_second_half": round(statistics.mean(warm[half:])),
            "at_the_end": round(warm[-1]),
        },
    }


def table(about: dict[str, Any]) -> str:
    head = (
        f"{common.introduction(about)} `captionlab serve`, {about['clients']} clients for "
        f"{about['seconds']} s, one picture a "
        "request, soft attention, beam 3, 30 tokens. Load average at the end "
        f"{about['load_average_at_the_end']}.\n\n"
    )
    rows = {
        "requests": about["requests"],
        "errors": about["errors"],
        "requests a second": about["requests_per_second"],
    }
    rows |= {f"seconds, {name}": value for name, value in about["latency_seconds"].items()}
    rows |= {
        f"memory, {name.replace('_', ' ')} (MB)": value
        for name, value in about["memory_mb"].items()
    }
    return head + common.markdown(["", ""], [[name, str(value)] for name, value in rows.items()])


if __name__ == "__main__":
    main()
