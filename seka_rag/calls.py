"""Calls: a caller's end of a request, in a thread or in an event loop.

What the engine tells of a request comes in as events: pieces of text, then the completion or an
error. Whoever stops listening cancels the request. Nothing here knows of the model.
"""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator

from seka_rag.errors import RequestTimeoutError
from seka_rag.requests import TIME_IS_UP, Chunk, Completion, Event, Job
from seka_rag.reuse import Prefix


class Call:
    """A request of a thread."""

    def __init__(self, job: Job, events: "queue.SimpleQueue[Event]") -> None:
        self._job, self._events = job, events

    def event(self) -> Chunk | Completion | Prefix:
        """Return what comes next; raise what went wrong."""
        try:
            event = self._events.get(timeout=self._job.time_left())
        except queue.Empty:
            self.cancel()
            raise RequestTimeoutError(TIME_IS_UP) from None
        except BaseException:  # KeyboardInterrupt, or whatever kills the caller while it waits
            self.cancel()
            raise
        if isinstance(event, BaseException):
            raise event
        return event

    def completion(self) -> Completion:
        """Return the end of it."""
        while not isinstance(event := self.event(), Completion):
            pass
        return event

    def prefix(self) -> Prefix:
        """Return the context that was asked for."""
        prefix = self.event()
        assert isinstance(prefix, Prefix)
        return prefix

    def cancel(self) -> None:
        """Let the engine drop the row at its next token."""
        self._job.cancelled = True


class Stream(Iterator[Chunk]):
    """The pieces of an answer; `completion` is there once the last has come."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.completion: Completion | None = None

    def __next__(self) -> Chunk:
        if self.completion is not None:
            raise StopIteration
        event = self._call.event()
        if isinstance(event, Completion):
            self.completion = event
            raise StopIteration
        assert isinstance(event, Chunk)
        return event

    def close(self) -> None:
        """End the row at its next token; what was written until then can still be read."""
        self._call.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncCall:
    """A request of a coroutine. It is submitted when the first event is waited for.

    `submit` takes the function that is told the events. It reads the prompt and may wait for the
    queue, so it runs in a thread.
    """

    def __init__(self, submit: Callable[[Callable[[Event], None]], Job]) -> None:
        self._submit = submit
        self._job: Job | None = None
        self._cancelled = False
        self._events: asyncio.Queue[Event] | None = None

    async def event(self) -> Chunk | Completion | Prefix:
        """Return what comes next; raise what went wrong."""
        try:
            if self._events is None:
                self._events = asyncio.Queue()
                await asyncio.to_thread(self._start, self._events, asyncio.get_running_loop())
            assert self._job is not None
            event = await asyncio.wait_for(self._events.get(), self._job.time_left())
        except TimeoutError:
            self.cancel()
            raise RequestTimeoutError(TIME_IS_UP) from None
        except BaseException:  # cancelled while it waits
            self.cancel()
            raise
        if isinstance(event, BaseException):
            raise event
        return event

    async def completion(self) -> Completion:
        """Return the end of it."""
        while not isinstance(event := await self.event(), Completion):
            pass
        return event

    def cancel(self) -> None:
        """Let the engine drop the row at its next token."""
        self._cancelled = True
        if self._job is not None:
            self._job.cancelled = True

    def _start(self, events: "asyncio.Queue[Event]", loop: asyncio.AbstractEventLoop) -> None:
        def tell(event: Event) -> None:
            try:
                loop.call_soon_threadsafe(events.put_nowait, event)
            except RuntimeError:  # the loop is closed
                self.cancel()

        self._job = self._submit(tell)
        self._job.cancelled = self._cancelled


class AsyncStream(AsyncIterator[Chunk]):
    """The pieces of an answer; `completion` is there once the last has come."""

    def __init__(self, call: AsyncCall) -> None:
        self._call = call
        self.completion: Completion | None = None

    async def __anext__(self) -> Chunk:
        if self.completion is not None:
            raise StopAsyncIteration
        event = await self._call.event()
        if isinstance(event, Completion):
            self.completion = event
            raise StopAsyncIteration
        assert isinstance(event, Chunk)
        return event

    async def aclose(self) -> None:
        """End the row at its next token; what was written until then can still be read."""
        self._call.cancel()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._call.cancel()
