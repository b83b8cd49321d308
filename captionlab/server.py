"""MLflow's scoring server behind a door: a request has limits of size and work, a full server says
so at once (429), what nobody waits for is dropped, and every refusal is a short JSON without a
traceback.

`mlflow models serve` alone reads a body of any size, answers JSON that cannot be parsed with all of
it, a CSV or Parquet that cannot be parsed with a stack trace, and a request without a content type
with status 500 in plain text. It goes on with pictures whose client has left.
"""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from captionlab.request_body import Refused, check_body
from pipeline.captioner.batcher import caller_left
from pipeline.core.errors import UserError, brief, printable
from pipeline.tracking.store import address_of_process

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MEGABYTE = 1_000_000
LONGEST = 400
"characters of a message"
WAITING = 64
"requests that are worked on or wait for it; one more is told to come again"
SMALL = 4 * MEGABYTE
"bytes of a body; larger ones have places of their own, so that they leave room for these"
LARGE = 4
"places for larger bodies, from their first bytes to the answer"
PATIENCE = 30.0
"seconds in which a body has to arrive"
AGAIN = 1
"seconds after which a client may come again"
ANSWERED = {"/invocations", "/ping", "/health", "/version"}
CODES = {
    404: "NOT_FOUND",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "TOO_MANY_REQUESTS",
}

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
    """An ASGI application in front of MLflow's.

    Args:
        limit: bytes of a body.
    """

    def __init__(self, app: App, limit: int):
        self.app, self.limit = app, limit
        self.waiting = self.large = 0
        self.readers = ThreadPoolExecutor(2)
        "bodies are looked at beside the loop, few at a time: Python reads JSON one at a time"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # a thread waits for each request's captions
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WAITING))
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            check_head(scope)
            if scope["path"] != "/invocations":
                return await self._pass_on(scope, _replayed(b"", receive), send)
            return await self._invoke(scope, receive, send)
        except Refused as refusal:
            return await _refuse(send, refusal.status, refusal.message, closes=refusal.closes)
        except _ClientLeftError:
            return None

    async def _invoke(self, scope: Message, receive: Receive, send: Send) -> None:
        with ExitStack() as places:
            body = await self._body(receive, places)
            _check_kind(scope)
            places.enter_context(self._place("waiting", WAITING))
            await asyncio.get_running_loop().run_in_executor(self.readers, check_body, body)
            over = threading.Event()
            places.callback(over.set)
            caller_left.set(over.is_set)
            watch = asyncio.ensure_future(_tell_when_gone(receive, over))
            places.callback(watch.cancel)
            await self._pass_on(scope, _replayed(body, receive), send)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        try:
            await self.app(scope, receive, answer.take)
        except RecursionError:
            raise Refused(400, "the JSON is nested too deeply") from None
        except Exception:
            log.exception("%s %s", scope["method"], printable(scope["path"]))
            if answer.started:  # too late for another answer
                raise
            raise Refused(500, "the server failed; its log says why") from None
        await answer.finish()

    async def _body(self, receive: Receive, places: ExitStack) -> bytes:
        """All of it. One that is refused is read to its end as well, since a client listens only
        when it has sent all."""
        body, size, refusal = bytearray(), 0, None
        try:
            async with asyncio.timeout(PATIENCE):
                async for part in _parts(receive):
                    is_large, size = size > SMALL, size + len(part)
                    if refusal:
                        continue
                    body += part
                    try:
                        if size > self.limit:
                            raise Refused(413, _too_large(self.limit))
                        if size > SMALL and not is_large:
                            places.enter_context(self._place("large", LARGE))
                    except Refused as found:
                        refusal = found
                        body.clear()
        except TimeoutError:
            message = f"the body did not arrive within {PATIENCE:g} s"
            raise Refused(408, message, closes=True) from None
        if refusal:
            raise refusal
        return bytes(body)

    @contextmanager
    def _place(self, kind: Literal["waiting", "large"], there: int) -> Iterator[None]:
        if getattr(self, kind) >= there:
            raise Refused(429, f"too many requests at once: come again in {AGAIN} s")
        setattr(self, kind, getattr(self, kind) + 1)
        try:
            yield
        finally:
            setattr(self, kind, getattr(self, kind) - 1)


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit:,} bytes: send fewer or smaller images"


class _ClientLeftError(Exception):
    """Nobody reads an answer."""


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _tell_when_gone(receive: Receive, over: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    over.set()


def check_head(scope: Message) -> None:
    """Raises Refused for what cannot be answered, whatever the body is."""
    names = [name for name, _ in scope["headers"]]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Refused(400, "Content-Length beside Transfer-Encoding: send one of them", closes=True)
    if scope["path"] not in ANSWERED:  # MLflow's pages of documentation name another machine
        raise Refused(404, f"nothing is here: there are {', '.join(sorted(ANSWERED))}")


def _check_kind(scope: Message) -> None:
    """MLflow takes CSV and Parquet as well. A table of a few kB may take seconds in either, or
    gigabytes; a picture is better off in JSON."""
    if scope["method"] != "POST":
        return
    kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        named = "no content type" if not kind else f"'{kind.decode('latin-1')[:40]}' is not taken"
        raise Refused(415, f"{named}: send application/json")


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


async def _refuse(
    send: Send, status: int, message: str, code: str | None = None, closes: bool = False
) -> None:
    name = code or CODES.get(status) or ("INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST")
    content = json.dumps({"error_code": name, "message": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    if status == 429:
        headers.append((b"retry-after", str(AGAIN).encode()))
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
