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
LONGEST = 400
"characters of a message"
WAITING = 64
"requests that are worked on or wait for it; one more is told to come again"
SMALL = 4 * MEGABYTE
"bytes of a body; larger ones have places of their own, so that they leave room for these"
LARGE = 4
"places for larger bodies, from their first bytes to the answer"
LONG = 250_000
"bytes of a body; longer ones are read one after another, which is work for Python alone"
PAUSE = 0.5
"seconds before the rest of a large body is read that is refused"
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
        self.turn = asyncio.Semaphore()
        "of long bodies, until their pictures are known"

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
            if answer.started:  # too late for another answer
                raise
            raise Refused(500, "the server failed; its log says why") from None
        if client_left():  # the answer is that its work was dropped
            raise _ClientLeftError
        await answer.finish()

    async def _body(self, receive: Receive, places: ExitStack, refusal: Refused | None) -> bytes:
        """All of it. One that is refused is read to its end as well, since a client listens only
        when it has sent all; a large one is kept waiting before, as it may come again at once."""
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
        """Of a body that has grown; a large one takes a place if there is one."""
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
    """Nobody reads an answer."""


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _turn(turns: asyncio.Semaphore) -> Callable[[], None]:
    """Wait for a turn; what is returned ends it, whatever thread calls it and how often."""
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
    """Raises Refused for what cannot be answered, whatever the body is."""
    names = [name for name, _ in scope["headers"]]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Refused(400, "Content-Length beside Transfer-Encoding: send one of them", closes=True)
    if scope["path"] not in ANSWERED:  # MLflow's pages of documentation name another machine
        raise Refused(404, f"nothing is here: there are {', '.join(sorted(ANSWERED))}")


def _kind_refused(scope: Message) -> Refused | None:
    """MLflow takes CSV and Parquet as well. A table of a few kB may take seconds in either, or
    gigabytes; a picture is better off in JSON."""
    if scope["method"] != "POST":
        return None
    kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"application/json":
        return None
    named = "no content type" if not kind else f"'{kind.decode('latin-1')[:40]}' is not taken"
    return Refused(415, f"{named}: send application/json")


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
