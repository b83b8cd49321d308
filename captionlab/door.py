"""A door in front of MLflow's scoring server, which checks requests.

The door limits the size and the work of a request. A full server answers 429 at once. Work is
dropped if its client has left. Every refusal is a short JSON without a traceback.

`mlflow models serve` alone reads a body of any size. It answers invalid JSON by repeating all of
it, and invalid CSV or Parquet with a stack trace. It answers a request without a content type with
status 500 in plain text. It keeps working on pictures after the client has left.
"""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from captionlab.request_body import Refused, check_body
from pipeline.captioner.batcher import caller_left, pictures_known
from pipeline.core.errors import printable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MEGABYTE = 1_000_000
# Maximum characters of a message; the rest is cut off.
LONGEST = 400
# Maximum requests that are worked on or wait; a further one is told to come again.
WAITING = 64
# Maximum bytes of a small body. Larger bodies need a place of their own, which leaves room for
# small ones.
SMALL = 4 * MEGABYTE
# Places for larger bodies. A body holds its place until it is answered.
LARGE = 4
# Bytes above which bodies are read one after another, because reading keeps Python busy.
LONG = 250_000
# Seconds to wait before reading the rest of a large body that is refused.
PAUSE = 0.5
# Seconds within which a body has to arrive.
PATIENCE = 30.0
# Seconds after which a refused client may come again.
AGAIN = 1
ANSWERED = {"/invocations", "/ping", "/health", "/version"}
CODES = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "TOO_MANY_REQUESTS",
}

log = logging.getLogger("captionlab.serve")


class Door:
    """An ASGI application in front of MLflow's.

    Args:
        limit: maximum bytes of a body.
    """

    def __init__(self, app: App, limit: int):
        self.app, self.limit = app, limit
        self.waiting = self.large = 0
        self.readers = ThreadPoolExecutor(2)
        "Threads that check bodies outside the event loop. Python parses one JSON at a time."
        self.turn = asyncio.Semaphore()
        "Held by one long body at a time, until its pictures are known."

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
            body = await self._body(receive, places, _kind_refused(scope))
            places.enter_context(self._place("waiting", WAITING))
            over = threading.Event()
            places.callback(over.set)
            caller_left.set(over.is_set)
            watch = asyncio.ensure_future(_tell_when_gone(receive, over))
            places.callback(watch.cancel)
            if len(body) > LONG:
                end = await _turn(self.turn)
                places.callback(end)
                pictures_known.set(end)
            if over.is_set():
                raise _ClientLeftError
            await asyncio.get_running_loop().run_in_executor(self.readers, check_body, body)
            await self._pass_on(scope, _replayed(body, receive), send, over.is_set)

    async def _pass_on(
        self,
        scope: Message,
        receive: Receive,
        send: Send,
        client_left: Callable[[], bool] = lambda: False,
    ) -> None:
        answer = _Answer(send)
        try:
            await self.app(scope, receive, answer.take)
        except RecursionError:
            raise Refused(400, "the JSON is nested too deeply") from None
        except Exception:
            if client_left():
                raise _ClientLeftError from None
            log.exception("%s %s", scope["method"], printable(scope["path"]))
            if answer.started:  # it is too late for another answer
                raise
            raise Refused(500, "the server failed; its log says why") from None
        if client_left():  # the answer only says that the work was dropped
            raise _ClientLeftError
        await answer.finish()

    async def _body(self, receive: Receive, places: ExitStack, refusal: Refused | None) -> bytes:
        """Read the whole body.

        A refused body is read to its end as well, because a client listens only after it has sent
        everything. If it is large, reading pauses first, because the client may come again at once.
        """
        body, size, paused = bytearray(), 0, False
        try:
            async with asyncio.timeout(PATIENCE):
                async for part in _parts(receive):
                    before, size = size, size + len(part)
                    refusal = refusal or self._size_refused(before, size, places)
                    if not refusal:
                        body += part
                    elif size > SMALL and not paused:
                        paused = True
                        body.clear()
                        await asyncio.sleep(PAUSE)
        except TimeoutError:
            message = f"the body did not arrive within {PATIENCE:g} s"
            raise Refused(408, message, closes=True) from None
        if refusal:
            raise refusal
        return bytes(body)

    def _size_refused(self, before: int, size: int, places: ExitStack) -> Refused | None:
        """Return why a body that has grown is refused, or None. A large body takes a place."""
        if size > self.limit:
            return Refused(413, _too_large(self.limit))
        try:
            if before <= SMALL < size:
                places.enter_context(self._place("large", LARGE))
        except Refused as refusal:
            return refusal
        return None

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
    """The client has left: nobody would read an answer."""


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _turn(turns: asyncio.Semaphore) -> Callable[[], None]:
    """Wait for a turn, and return a function that ends it.

    Any thread may call the function, any number of times.
    """
    await turns.acquire()
    loop, ended = asyncio.get_running_loop(), threading.Lock()

    def end() -> None:
        if ended.acquire(blocking=False):
            loop.call_soon_threadsafe(turns.release)

    return end


async def _tell_when_gone(receive: Receive, over: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    over.set()


def check_head(scope: Message) -> None:
    """Raise Refused if a request cannot be answered, whatever its body is."""
    names = [name for name, _ in scope["headers"]]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Refused(400, "Content-Length beside Transfer-Encoding: send one of them", closes=True)
    if scope["path"] not in ANSWERED:  # MLflow's documentation pages refer to another machine
        raise Refused(404, f"nothing is here: there are {', '.join(sorted(ANSWERED))}")
    if scope["path"] == "/invocations" and scope["method"] != "POST":
        raise Refused(405, f"{scope['method']} is not answered here: send POST")


def _kind_refused(scope: Message) -> Refused | None:
    """Return a refusal for any body but JSON, or None.

    MLflow also accepts CSV and Parquet. In either, a table of a few kB may take seconds or
    gigabytes, and JSON suits pictures better.
    """
    kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"application/json":
        return None
    named = "no content type" if not kind else f"'{kind.decode('latin-1')[:40]}' is not taken"
    return Refused(415, f"{named}: send application/json")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body as one message, then whatever else arrives."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


class _Answer:
    """Pass a good answer on as it arrives; keep one of status 400 or above, to shorten it."""

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
    """Return message and error code of MLflow's answer, which is JSON or text."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {"message": body.decode("utf-8", "replace")}
    if "stack_trace" in said:
        log.error("%s", "\n".join(map(printable, str(said["stack_trace"]).splitlines())))
    text = str(said.get("message", said.get("detail", "refused")))
    if text.startswith("Failed to predict data"):  # then repeats all of the data
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
