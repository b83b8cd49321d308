"""MLflow's scoring server behind a door: bodies have a limit, and every refusal is a short JSON
without a traceback.

`mlflow models serve` alone reads a body of any size, answers JSON that cannot be parsed with all of
it, a CSV or Parquet that cannot be parsed with a stack trace, and a request without a content type
with status 500 in plain text.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.core.errors import UserError, brief, printable
from pipeline.tracking.store import address_of_process

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MEGABYTE = 1_000_000
LONGEST = 400
"characters of a message"
WAITING = 32
"requests whose pictures may go into one batch"
CODES = {413: "REQUEST_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE"}

log = logging.getLogger("captionlab.serve")


def serve(model: str, uri: str, host: str, port: int, limit: int) -> None:
    """Serve until interrupted.

    Args:
        model: MLflow's address of a model, `models:/NAME@champion`, or the folder of one.
        uri: of the tracking server.
        limit: bytes of a body.

    Raises:
        UserError: the model cannot be loaded, or the port is taken.
    """
    import uvicorn
    from mlflow.pyfunc import scoring_server

    place = _bound(host, port)
    app = Door(scoring_server.init(_loaded(model, uri)), limit)
    print(f"{model} answers POST http://{host}:{port}/invocations", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[place])


def _bound(host: str, port: int) -> socket.socket:
    """Taken before the model is loaded, which takes seconds."""
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be used ({error.strerror}): name another --host or --port"
        ) from None
    return place


def _loaded(model: str, uri: str) -> Any:
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import load_model

    try:
        with address_of_process(uri):
            return load_model(model)
    except (MlflowException, OSError) as error:
        known = "champion, models:/NAME/VERSION, runs:/RUN/captioner, or a folder with MLmodel"
        raise UserError(
            f"model '{model}' cannot be loaded ({brief(error)}): name {known}"
        ) from None


class Door:
    """An ASGI application in front of another."""

    def __init__(self, app: App, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "lifespan"
        ):  # a thread waits for each request's captions: there are six for two cores, else
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WAITING))
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = await _body(receive, self.limit)
        if body is None:
            return await _refuse(
                send,
                413,
                f"the body is larger than {self.limit:,} bytes: send fewer or smaller images",
            )
        if scope["method"] == "POST" and b"content-type" not in dict(scope["headers"]):
            return await _refuse(send, 415, "no content type: send application/json")
        answer = _Answer(send)
        try:
            await self.app(scope, _replayed(body, receive), answer.take)
        except RecursionError:
            return await _refuse(send, 400, "the JSON is nested too deeply")
        except Exception:
            log.exception("%s %s", scope["method"], printable(scope["path"]))
            if answer.started:  # too late for another answer
                raise
            return await _refuse(send, 500, "the server failed; its log says why")
        return await answer.finish()


async def _body(receive: Receive, limit: int) -> bytes | None:
    """All of it, or None where it is too large; read to its end even then, for a client listens
    only when it has sent all."""
    body, size, more = bytearray(), 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size > limit:
            body.clear()
        else:
            body += part
    return bytes(body) if size <= limit else None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more as one message, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


class _Answer:
    """Passes a good answer on as it comes, and keeps one of status 400 and above until it can be
    shortened."""

    def __init__(self, send: Send):
        self.send = send
        self.status, self.kept, self.started = 200, bytearray(), False

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        if self.status < 400:
            self.started = True
            await self.send(message)
        else:
            self.kept += message.get("body", b"")

    async def finish(self) -> None:
        if self.status >= 400:
            await _refuse(self.send, self.status, *_short(bytes(self.kept)))


def _short(body: bytes) -> tuple[str, str | None]:
    """Message and code of an answer of MLflow, which is JSON or text."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {"message": body.decode("utf-8", "replace")}
    if "stack_trace" in said:
        log.error("%s", "\n".join(map(printable, str(said["stack_trace"]).splitlines())))
    text = str(said.get("message", said.get("detail", "refused")))
    if text.startswith("Failed to predict data"):  # and then all of the data
        text = text.rpartition("\nError: ")[2]
    text = " ".join(text[:LONGEST].split()) + (" ..." if len(text) > LONGEST else "")
    return text, said.get("error_code")


async def _refuse(send: Send, status: int, message: str, code: str | None = None) -> None:
    name = code or CODES.get(status) or ("INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST")
    content = json.dumps({"error_code": name, "message": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
