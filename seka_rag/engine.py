"""The engine: many callers, one model, every request with its own highlights.

This is what callers see: requests are read and checked in the caller's thread, and wait in a
bounded queue for the one thread that owns the model (`worker`). Which rows share a batch changes no
answer: what is drawn depends on the row's own seed, and padding is never looked at. (Sums of
floating-point numbers depend in their last digits on the shape of a batch, as everywhere.)
"""

import atexit
import copy
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypedDict, Unpack

from seka_rag.calls import AsyncCall, AsyncStream, Call, Stream
from seka_rag.errors import EngineClosedError, QueueFullError
from seka_rag.experts import Choice
from seka_rag.prompts import Prompt
from seka_rag.requests import Completion, Constraint, Event, Job
from seka_rag.sampling import Sampling
from seka_rag.steering import SteeredModel
from seka_rag.worker import Worker, under
from seka_rag.writing import Writer


class Options(TypedDict, total=False):
    """What a request may say beside its prompt and sampling.

    `gain` is for its highlights that have none of their own; 0 turns them off. `experts` chooses
    among the bank's, as in SteeredModel. `constraint` says what may be written at all. After
    `timeout` seconds the caller gets a RequestTimeoutError.
    """

    gain: float | None
    experts: Choice
    constraint: Constraint | None
    timeout: float | None


class Engine:
    """Serves a SteeredModel to any number of threads and event loops.

    `max_batch_tokens`: rows times the length of the longest, new tokens included, that are computed
    side by side; a longer request is computed alone. `max_wait_ms`: how long an idle engine waits
    for company to the first request. `max_queue`: requests that wait; beyond it a caller waits as
    well, or with `when_full="raise"` gets a QueueFullError. Use it as a context manager, or call
    `close`; the interpreter's end closes it too.
    """

    def __init__(
        self,
        steered: SteeredModel,
        *,
        max_batch_tokens: int = 16_384,
        max_wait_ms: float = 2.0,
        max_queue: int = 1024,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> None:
        self.steered = steered
        self._when_full = when_full
        self._queue: queue.Queue[Job | None] = queue.Queue(max_queue)
        self._reading = threading.Lock()  # a fast tokenizer encodes for one thread at a time
        self._decoder = copy.deepcopy(steered.tokenizer)
        self._eos_ids = _eos_ids(steered)
        self._closed = threading.Event()
        worker = Worker(
            steered,
            self._queue,
            self._closed,
            max_batch_tokens=max_batch_tokens,
            max_wait=max_wait_ms / 1000,
        )
        self._thread = threading.Thread(target=worker.run, name="seka-rag engine", daemon=True)
        self._thread.start()
        self._at_exit = weakref.WeakMethod(self.close)
        atexit.register(_close, self._at_exit)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop: requests that are not done get an EngineClosedError."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self._at_exit)
        try:
            self._queue.put_nowait(None)  # wakes the thread where it waits
        except queue.Full:
            pass  # then it is awake
        self._thread.join()

    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Completion:
        """Return what the model writes after the prompt."""
        return self._call(prompt, sampling, options).completion()

    def stream(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Stream:
        """Return the pieces of the answer as they are written. Closing the stream ends the row."""
        return Stream(self._call(prompt, sampling, options, streams=True))

    def batch(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        **options: Unpack[Options],
    ) -> list[Completion]:
        """Return what the model writes after each prompt; the first error ends them all."""
        each = sampling if isinstance(sampling, Sequence) else [sampling] * len(prompts)
        calls: list[Call] = []
        try:
            for prompt, settings in zip(prompts, each, strict=True):
                calls.append(self._call(prompt, settings, options))
            return [call.completion() for call in calls]
        finally:
            for call in calls:
                call.cancel()

    async def agenerate(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Completion:
        """Return what `generate` does; cancelling the task ends the row at its next token."""
        call = AsyncCall(partial(self._submitted, prompt, sampling, options))
        return await call.completion()

    def astream(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> AsyncStream:
        """Return the pieces of the answer; the event loop is never kept waiting."""
        submit = partial(self._submitted, prompt, sampling, options, streams=True)
        return AsyncStream(AsyncCall(submit))

    def _call(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        *,
        streams: bool = False,
    ) -> Call:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        return Call(self._submitted(prompt, sampling, options, events.put, streams=streams), events)

    def _submitted(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        tell: Callable[[Event], None],
        *,
        streams: bool = False,
    ) -> Job:
        """Return the request, read, checked and in the queue; what is wrong is raised here."""
        timeout = options.get("timeout")
        deadline = None if timeout is None else time.monotonic() + timeout
        experts = options.get("experts", self.steered.routing.experts)
        sampling = sampling or Sampling()
        with self._reading:
            row = under(self.steered, experts).read(prompt, gain=options.get("gain"))
        limit = sampling.max_new_tokens
        if (context := self.steered.context_length) is not None:
            limit = max(1, min(limit, context - len(row.ids)))
        constraint = options.get("constraint")
        job = Job(
            row,
            sampling,
            experts,
            limit,
            self._eos_ids,
            Writer(self._decoder, sampling.stop),
            tell,
            streams,
            None if constraint is None else constraint.matcher(),
            deadline,
        )
        self._submit(job)
        return job

    def _submit(self, job: Job) -> None:
        while not self._closed.is_set():
            try:
                # Not for ever: a caller must not sleep through the engine's end.
                self._queue.put(job, block=self._when_full == "wait", timeout=0.1)
                if self._closed.is_set():  # perhaps too late to be seen
                    break
                return
            except queue.Full:
                if job.end_early():
                    return
                if self._when_full == "raise":
                    raise QueueFullError(
                        f"{self._queue.maxsize} requests wait already: try again later, or use "
                        'when_full="wait"'
                    ) from None
        raise EngineClosedError("the engine is closed: open another")


def _close(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    if (close := method()) is not None:
        close()


def _eos_ids(steered: SteeredModel) -> frozenset[int]:
    config = steered.model.generation_config
    found = None if config is None else config.eos_token_id
    ids = found if isinstance(found, list) else [found]
    return frozenset(token_id for token_id in ids if isinstance(token_id, int))
