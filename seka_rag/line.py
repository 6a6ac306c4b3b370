"""Line: one thread with an event loop, which speaks HTTP with one server for all that ask.

It keeps connections, sends again what a busy server did not take, finds out whether highlights are
understood, and tells faults as SekaErrors that never hold the key. Pieces of an answer go as they
come to the request that asked: nothing here knows prompts, tokens or what an answer means.
"""

import asyncio
import itertools
import json
import random
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import aclosing, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from seka_rag.errors import (
    EngineClosedError,
    MissingExtraError,
    PromptError,
    RequestTimeoutError,
    SekaError,
    ServerError,
    UnsteerableError,
)
from seka_rag.requests import TIME_IS_UP, Event
from seka_rag.wire import Body, seconds_to_wait

if TYPE_CHECKING:
    import httpx2

_T = TypeVar("_T")

_BEYOND = [0, 1_000_000_000, 1.0]  # a highlight of tokens that no prompt has
_GAIN = re.compile(r"bank's gain is ([-+.\de]*\d)")
_TRY_AGAIN = (429, 502, 503, 504)
_LONGEST_PAUSE = 60.0  # seconds
_CONNECTIONS = 256
_REFUSED = (400, 413, 422)  # statuses that say that the request is at fault
_CLOSED_EARLY = "the engine was closed before the answer was done"


class Request(Protocol):
    """What is asked of a request while it is on its way, by the line's thread alone."""

    abandon: Callable[[], object] | None  # set here; any thread may call it to end the request

    @property
    def body(self) -> Body: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def tell(self) -> Callable[[Event], None]: ...
    def time_left(self) -> float | None: ...
    def mark(self, moment: Literal["started", "prefilled"]) -> None: ...
    def receive(self, answer: Mapping[str, Any]) -> bool: ...
    def end(self, reason: Literal["cancelled"] | None = None) -> None: ...


class Line:
    """A thread with an event loop, which speaks with one server for all that ask."""

    def __init__(self, url: str, key: str | None, max_retries: int, transport: Any) -> None:
        http = _http()
        parts = urlsplit(url)
        self.shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self.steers = False  # as far as is known
        self._bank_gain: float | None = None
        self._probing = asyncio.Lock()
        self._key, self._max_retries = key, max_retries
        self._broken: type[Exception] = http.TransportError
        self._client: httpx2.AsyncClient = http.AsyncClient(
            base_url=f"{url}/",
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=http.Timeout(None, connect=10.0),  # the rest is the request's own deadline
            limits=http.Limits(max_connections=_CONNECTIONS),
            transport=transport,
        )
        self._tasks: set[asyncio.Task[None]] = set()  # the loop alone would let go of them
        self._loop, self._closing, self._closed = asyncio.new_event_loop(), asyncio.Event(), False
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="seka-rag remote", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and tell those who wait."""
        with self._sending:  # whatever was sent before is begun before
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._closing.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def send(self, request: Request) -> None:
        """Begin a request; what comes of it is told."""
        with self._sending:
            self._check_open()
            self._loop.call_soon_threadsafe(self._begin, request)

    def wait(self, coroutine: Coroutine[Any, Any, _T], timeout: float | None) -> _T:
        """Return what comes of the coroutine; the caller's thread waits."""
        try:
            with self._sending:
                self._check_open()
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except EngineClosedError:
            coroutine.close()
            raise
        try:
            return future.result(timeout)
        except TimeoutError:
            raise RequestTimeoutError(TIME_IS_UP) from None
        except CancelledError:
            raise EngineClosedError(_CLOSED_EARLY) from None
        finally:
            future.cancel()

    async def whole(
        self, method: str, path: str, body: Body | None = None, *, steered: bool = False
    ) -> Body:
        """Return the server's answer, once it has one."""
        async with aclosing(self._lines(method, path, body, steered=steered)) as lines:
            return self._decoded(b"\n".join([line async for line in lines]))

    async def probe(self, model: str, ids: Sequence[int]) -> float | None:
        """Return the gain of the server's bank; None where it does not say.

        A server without the plugin passes over highlights in silence: an UnsteerableError. So a
        token that no prompt has is highlighted, which the plugin refuses.
        """
        async with self._probing:
            if self.steers:  # found while this one waited
                return self._bank_gain
            body = {"model": model, "prompt": [*ids], "max_tokens": 1, "temperature": 0.0}
            try:
                await self.whole("POST", "completions", body | {"vllm_xargs": {"seka": _BEYOND}})
            except (PromptError, ServerError) as error:
                if "seka:" not in str(error):
                    raise
                found = _GAIN.search(str(error))
                self._bank_gain = None if found is None else float(found[1])
                self.steers = True
                return self._bank_gain
        raise UnsteerableError(
            f"the prompt has highlights, and the server at {self.shown} would pass over them: "
            "install vllm-seka where it runs and serve with a bank, or set gain=0 for the plain "
            "model"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("the engine is closed: open another")

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._until_closed())
        finally:
            self._loop.close()

    async def _until_closed(self) -> None:
        async with self._client:
            await self._closing.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def _begin(self, request: Request) -> None:
        def abandon() -> None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task.cancel)

        task = self._loop.create_task(self._run(request))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, request))
        request.abandon = abandon
        if request.cancelled:
            task.cancel()

    def _ended(self, request: Request, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            if (error := task.exception()) is not None:
                request.tell(error)
        elif request.cancelled:
            request.end("cancelled")
        else:
            request.tell(EngineClosedError(_CLOSED_EARLY))

    async def _run(self, request: Request) -> None:
        try:
            async with asyncio.timeout(request.time_left()):
                request.mark("started")
                async with aclosing(self._answers(request.body)) as answers:
                    async for answer in answers:
                        if not request.receive(answer):
                            break
        except TimeoutError:
            raise RequestTimeoutError(TIME_IS_UP) from None
        request.end()

    async def _answers(self, body: Body) -> AsyncGenerator[Body, None]:
        """Yield the pieces of an answer; all of it at once unless it is streamed."""
        steered = "vllm_xargs" in body
        if not body["stream"]:
            yield await self.whole("POST", "completions", body, steered=steered)
            return
        async with aclosing(self._lines("POST", "completions", body, steered=steered)) as lines:
            async for line in lines:  # to the end, so that the connection can be used again
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    yield self._decoded(line[5:])

    async def _lines(
        self, method: str, path: str, body: Body | None, *, steered: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the server's answer. Until the first has come, it is asked again."""
        for attempt in itertools.count():
            begun, after = False, None
            if steered and not self.steers and body is not None:
                await self.probe(body["model"], body["prompt"][:1])
            try:
                async with self._client.stream(method, path, json=body) as response:
                    if response.status_code == 200:
                        async for line in _split(response.aiter_bytes()):
                            begun = True
                            yield line
                        return
                    fault = self._fault(response.status_code, await response.aread())
                    after = seconds_to_wait(response.headers.get("retry-after"))
                    again = response.status_code in _TRY_AGAIN
            except self._broken as error:
                # Another server may answer next, with or without the plugin.
                self.steers, again = False, not begun
                how = "broke the answer off" if begun else "cannot be reached"
                reason = str(error) or type(error).__name__
                fault = ServerError(f"the server at {self.shown} {how}: {self._line_of(reason)}")
            pause = random.uniform(0.5, 1) * min(2**attempt / 2, 8) if after is None else after
            if not again or attempt >= self._max_retries or pause > _LONGEST_PAUSE:
                raise fault
            await asyncio.sleep(pause)

    def _decoded(self, text: bytes) -> Body:
        """Return the object that the server sent; an error that it sent in its place is raised."""
        try:
            found = json.loads(text)
            error = found.get("error")
            status = error.get("code", 500) if error else 200
        except (ValueError, AttributeError):
            raise ServerError(
                f"what the server at {self.shown} sent is not of the OpenAI API: "
                f"{self._line_of(text.decode(errors='replace'))}"
            ) from None
        if error:
            raise self._fault(status, text)
        return cast(Body, found)

    def _fault(self, status: object, content: bytes) -> SekaError:
        """Return the error that a status and what came with it stand for."""
        said: object = content.decode(errors="replace")
        with suppress(ValueError, TypeError, AttributeError):
            found = json.loads(content)
            said = found.get("error") or found.get("detail") or found
            said = said.get("message", said) if isinstance(said, dict) else said
        text = self._line_of(said if isinstance(said, str) else json.dumps(said)) or "nothing"
        if status in _REFUSED:
            return PromptError(f"the server at {self.shown} refuses the request: {text}")
        return ServerError(f"the server at {self.shown} answers {status}: {text}")

    def _line_of(self, text: str) -> str:
        """Return a text of the server's in one line, without the key that it may repeat."""
        line = " ".join(text.split())
        line = line.replace(self._key, "…") if self._key else line
        return line if len(line) <= 500 else f"{line[:500]}…"


async def _split(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield lines. JSON may hold what Python takes for the end of one, but never a line feed."""
    held = b""
    async for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            yield line
    if held:
        yield held


def _http() -> Any:
    """Return httpx, by the name under which huggingface_hub brought it."""
    for name in ("httpx2", "httpx"):
        with suppress(ModuleNotFoundError):
            return import_module(name)
    raise MissingExtraError('to ask a server, httpx must be there: run pip install "httpx2"')
